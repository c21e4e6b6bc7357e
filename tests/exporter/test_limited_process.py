"""Caps on time and memory hold in every phase, native code included, and what was found by then is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.exporter.diffing.plain_models import NODE, chain, model

SECONDS = 5.0
# Two looks, the time to end politely and by force, and what a busy machine needs to start Python.
LATE = 12.0


def endless() -> onnx.ModelProto:
    """A single run that takes hours."""
    values = [helper.make_tensor_value_info("i", TensorProto.INT64, [])]
    values += [helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    state = helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 4])
    body = helper.make_graph(
        [NODE("Sin", ["h"], ["s"], "sine"), NODE("Identity", ["c"], ["go"])],
        "body", [*values, state],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, []), helper.make_tensor_value_info("s", 1, ["n", 4])],
    )  # fmt: skip
    return model([NODE("Loop", ["trips", "", "x"], ["y"], "loop", body=body)], {"trips": np.int64(2**40)})


def slow_to_load() -> onnx.ModelProto:
    """Products of large constants, which ONNX Runtime folds while it loads the file."""
    nodes = [NODE("ConstantOfShape", ["size"], ["m0"], value=numpy_helper.from_array(np.float32([1e-3])))]
    nodes += [NODE("MatMul", [f"m{place}", "m0"], [f"m{place + 1}"]) for place in range(64)]
    nodes += [NODE("ReduceMax", ["m64"], ["most"], keepdims=0), NODE("Add", ["x", "most"], ["y"], "sum")]
    return model(nodes, {"size": np.int64([3000, 3000])})


def greedy() -> onnx.ModelProto:
    """A run that takes ten times its input's square in memory."""
    nodes = [NODE("Expand", ["x", "shape"], ["wide"], "wide"), NODE("ReduceMean", ["wide"], ["y"], "mean", keepdims=1)]
    return model(nodes, {"shape": np.int64([200, 1000, 1000, 4])}, output_shape=(1, 1, 1, 1))


def run(folder: Path, *arguments: str) -> tuple[int, str, float]:
    """Run a command; return its exit code, what it said and how long it took."""
    start = time.monotonic()
    environment = {**os.environ, "COLUMNS": "200", "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    (folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "hsm_export", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=120)
    assert list((folder / "tmp").iterdir()) == [], "nothing is left behind"
    return done.returncode, done.stdout + done.stderr, time.monotonic() - start


@pytest.mark.parametrize(("command", "make"), [("validate", endless), ("diff", slow_to_load)])
def test_a_time_limit_ends_native_code(command: str, make: Any, tmp_path: Path) -> None:
    onnx.save(make(), str(tmp_path / "m.onnx"))
    code, said, seconds = run(tmp_path, command, "m.onnx", "--runtimes", "ort", "--max-seconds", f"{SECONDS}")
    assert code == 8, said
    assert f"the time limit of {SECONDS:g} s was reached while" in said
    assert seconds < SECONDS + LATE
    assert "PASSED" not in said


def test_a_memory_limit_ends_native_code(tmp_path: Path) -> None:
    onnx.save(greedy(), str(tmp_path / "m.onnx"))
    code, said, _ = run(tmp_path, "validate", "m.onnx", "--runtimes", "ort", "--max-memory", "1500")
    assert code == 8, said
    assert "the memory limit of 1500 MB was reached while" in said


def test_what_was_found_before_is_reported(tmp_path: Path) -> None:
    """The second runtime never ends: the first one's numbers are in the report, and what is missing is said."""
    onnx.save(chain(), str(tmp_path / "m.onnx"))
    (tmp_path / "slow.py").write_text(
        "import time\nclass Slow:\n    def __init__(self, path):\n        time.sleep(1000)\n", "utf-8"
    )
    more: Sequence[str] = ("--runtimes", "ort,slow.py:Slow", "--max-seconds", "12")
    code, said, _ = run(tmp_path, "diff", "m.onnx", *more, "--json", "--polygraphy", "kept")
    assert code == 8, said
    report = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert [item["verdict"] for item in report["runtimes"]] == ["same"]
    assert (report["complete"], report["passed"]) == (False, False)
    assert "was reached while running slow.py:Slow" in report["early"]
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "slow.py", "tmp"}, "nothing half-written"
    code, said, _ = run(tmp_path, "validate", "m.onnx", *more, "--json")
    assert code == 8, said
    report = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert [item["runtime"] for item in report["runtimes"]] == ["onnx-reference", "ort"]
    assert "was reached while running slow.py:Slow" in report["early"]


def test_without_haste_a_limit_changes_nothing(tmp_path: Path) -> None:
    onnx.save(chain(), str(tmp_path / "m.onnx"))
    code, said, _ = run(tmp_path, "diff", "m.onnx", "--runtimes", "ort", "--max-seconds", "300", "--max-memory", "9000")
    assert code == 0, said
    assert "PASSED" in said


def test_errors_of_the_child_are_those_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    for command in ("validate", "diff"):
        code, said, _ = run(tmp_path, command, "m.onnx", "--max-seconds", "60")
        assert code == 4, said
        assert "m.onnx is not a whole ONNX file" in said or "error: " in said
