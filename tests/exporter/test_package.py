"""The public face of the package."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

import hsm_export
from hsm_export.formats.result import Result


def test_every_public_name_is_importable() -> None:
    for name in hsm_export.__all__:
        assert getattr(hsm_export, name) is not None
    assert set(dir(hsm_export)) == set(hsm_export.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hsm_export.nothing


def test_importing_the_packages_imports_nothing_heavy() -> None:
    code = (
        "import sys, hsm_export, hsm_models, hsm_export.cli\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy', 'polygraphy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_without_a_source_is_validated_without_pytorch(tmp_path: Path) -> None:
    relu = onnx.helper.make_node("Relu", ["x"], ["y"], "relu")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = onnx.helper.make_graph([relu], "g", [x], [y])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=opset), tmp_path / "m.onnx")
    code = (
        "import sys, hsm_export\n"
        "print(hsm_export.validate(sys.argv[1], runtimes=['onnx-reference', 'ort']).passed, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True False"


def test_results_become_strict_json() -> None:
    @dataclass(frozen=True)
    class Inner(Result):
        path: Path
        values: tuple[float, ...]

    @dataclass(frozen=True)
    class Outer(Result):
        inner: Inner
        table: dict[str, Inner]

    inner = Inner(Path("a"), (1.0, math.nan, math.inf))
    text = json.dumps(Outer(inner, {"x": inner}).to_dict(), allow_nan=False)
    assert json.loads(text)["table"]["x"] == {"path": "a", "values": [1.0, "nan", "inf"]}
