"""hsm-run as people and programs use it: files in and out, one start for many calls, a sentence for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file
from tests.exporter.building.hand_made import token_model

from hsm_export.bundling import bundle
from hsm_export.native import custom_ops_path, run_program_path
from hsm_export.runtimes import get
from hsm_export.runtimes.cpp import onnxruntime_library
from hsm_export.runtimes.cpp_bundle import write_graph_bundle

UNAVAILABLE = get("cpp").available()
pytestmark = pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))


def hsm_run(*arguments: str | Path, requests: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HSM_ONNXRUNTIME_LIBRARY": str(onnxruntime_library())}
    command = [run_program_path(), "--kernels", custom_ops_path(), "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=requests, env=environment, timeout=300)


def write_bundle(folder: Path, name: str, nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any]) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*item) for item in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    write_graph_bundle(model, folder, folder / name)
    return folder / name


@pytest.fixture
def add(tmp_path: Path) -> Path:
    """A bundle that computes y = a + b."""
    shape = ["n", 2]
    inputs = [("a", TensorProto.FLOAT, shape), ("b", TensorProto.FLOAT, shape)]
    return write_bundle(
        tmp_path, "add.hsm", [helper.make_node("Add", ["a", "b"], ["y"])], inputs, [("y", TensorProto.FLOAT, shape)]
    )


@pytest.fixture
def good(tmp_path: Path) -> Path:
    bundle(token_model(tmp_path / "tokens.onnx"), tmp_path / "good.hsm")
    return tmp_path / "good.hsm"


def write(path: Path, **arrays: Any) -> Path:
    save_file({name: np.asarray(array, np.float32) for name, array in arrays.items()}, path)
    return path


def test_files_in_and_out(add: Path, tmp_path: Path) -> None:
    inputs = write(tmp_path / "in.safetensors", a=[[1, 2]], b=[[3, 4]])
    link = tmp_path / "a link to it"
    link.symlink_to(inputs)
    for name in (inputs, link):
        done = hsm_run(add, "--inputs", name, "--outputs", tmp_path / "out.safetensors", "--quiet")
        assert done.returncode == 0, done.stderr
        assert load_file(tmp_path / "out.safetensors")["y"].tolist() == [[4, 6]]
        (tmp_path / "out.safetensors").unlink()
    assert not list(tmp_path.glob("*.part"))


def test_json_for_programs(good: Path, add: Path, tmp_path: Path) -> None:
    done = hsm_run(good, "--self-test", "--bench", "20", "--json", "--no-digests")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True and report["open_ms"] > 0
    (part,) = report["parts"]
    assert (part["part"], part["backend"]) == ("model", "onnxruntime-fused")
    assert part["load_ms"] > 0 and part["first_run_ms"] > 0
    assert all(item["passed"] and item["error"] <= item["tolerance"] for item in part["self_test"])
    times = part["times"]
    assert times["runs"] == 20
    assert 0 < times["minimum_us"] <= times["q1_us"] <= times["median_us"] <= times["q3_us"] <= times["p95_us"]
    inputs = write(tmp_path / "in.safetensors", a=np.ones((500, 2)), b=np.ones((500, 2)))
    done = hsm_run(add, "--inputs", inputs, "--bench", "5")
    assert done.returncode == 0, done.stderr
    assert "5 runs" in done.stdout and "passed" not in done.stdout


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT16", "INT64", "BOOL"])
def test_tensors_keep_their_type(kind: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    number = getattr(TensorProto, kind)
    values = [("x", number, ["n"])], [("y", number, ["n"])]
    path = write_bundle(tmp_path, "i.hsm", [helper.make_node("Identity", ["x"], ["y"])], *values)
    x = torch.tensor([0.0, 1.0, -3.140625, 65280.0]).to(getattr(torch, kind.lower(), torch.float16))
    save_torch({"x": x}, tmp_path / "in.safetensors")
    done = hsm_run(path, "--inputs", tmp_path / "in.safetensors", "--outputs", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    y = load_torch(tmp_path / "out.safetensors")["y"]
    assert y.dtype == x.dtype
    assert torch.equal(y, x)


def test_float32_is_rounded_for_bfloat16(tmp_path: Path) -> None:
    from safetensors.torch import load_file as load_torch

    kind = TensorProto.BFLOAT16
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    path = write_bundle(tmp_path, "i.hsm", nodes, [("x", kind, ["n"])], [("y", kind, ["n"])])
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    x[:8] = [1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, np.inf, -np.inf, np.nan, -0.0, 1e-40]
    save_file({"x": x}, tmp_path / "in.safetensors")
    done = hsm_run(path, "--inputs", tmp_path / "in.safetensors", "--outputs", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    y = load_torch(tmp_path / "out.safetensors")["y"]
    torch.testing.assert_close(y, torch.from_numpy(x).bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_one_start_for_many_calls(add: Path, tmp_path: Path) -> None:
    good, other = (
        write(tmp_path / f"{i} in.safetensors", a=[[i, 0]] * size, b=[[1, 1]] * size) for i, size in ((1, 1), (2, 3))
    )
    wrong = write(tmp_path / "wrong.safetensors", a=[[1, 2]])
    lines = [
        f"run\t{good}\t{tmp_path / 'o1'}",
        f"run\t{wrong}\t{tmp_path / 'o2'}",
        "nonsense",
        f"run\t{good}\t{tmp_path / 'no' / 'folder'}",
        f"time\t{other}\t0.01",
        f"time\t{other}\tsoon",
        f"run\t{other}\t{tmp_path / 'o3'}",
        f"run\t/nowhere\t{tmp_path / 'o2'}",
    ]
    done = hsm_run(add, "--serve", "--quiet", requests="\n".join(lines))
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert answers[0] == "ready onnxruntime-fused"
    assert " ".join(answer.split()[0] for answer in answers[1:]) == "ok error error error ok error ok error"
    assert all(float(answer.split()[1]) > 0 for answer in answers if answer.startswith("ok"))
    for index, words in ((2, "'b' is missing"), (3, "a request is"), (4, "cannot be written"), (8, "cannot be read")):
        assert words in answers[index]
    assert load_file(tmp_path / "o1")["y"].tolist() == [[2, 1]]
    assert load_file(tmp_path / "o3")["y"].tolist() == [[3, 1]] * 3
    assert not (tmp_path / "o2").exists()


def test_a_decoder_starts_from_zeros(tmp_path: Path) -> None:
    """Inputs named past.* may be left out; what the caller chooses of their size comes from the other inputs."""
    inputs = [("tokens", TensorProto.INT64, ["batch", "length"]), ("past.0", TensorProto.FLOAT, ["batch", "capacity"])]
    outputs = [("state", TensorProto.FLOAT, ["batch", "capacity"])]
    nodes = [helper.make_node("Identity", ["past.0"], ["state"]), helper.make_node("Identity", ["tokens"], ["t"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*item) for item in [*outputs, ("t", TensorProto.INT64, ["batch", "length"])]],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "d.hsm"
    write_graph_bundle(model, tmp_path, path)
    manifest = json.loads((path / "manifest.json").read_text())
    for tensor, shape in zip(manifest["model"]["inputs"], (["batch", "length"], ["batch", "capacity"]), strict=True):
        tensor["shape"] = shape
    (path / "manifest.json").write_text(json.dumps(manifest))
    save_file({"tokens": np.zeros((2, 5), np.int64)}, tmp_path / "in.safetensors")
    done = hsm_run(path, "--inputs", tmp_path / "in.safetensors", "--outputs", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    state = load_file(tmp_path / "out.safetensors")["state"]
    assert state.shape == (2, 5) and not state.any()


def test_mistakes_are_a_sentence_and_a_code(add: Path, good: Path, tmp_path: Path) -> None:
    inputs = write(tmp_path / "in.safetensors", a=[[1, 2]], b=[[3, 4]])
    extra = write(tmp_path / "extra.safetensors", a=[[1, 2]], b=[[3, 4]], c=[1])
    shape = write(tmp_path / "shape.safetensors", a=[[1, 2]], b=[3, 4])
    save_file({"a": np.ones((1, 2)), "b": np.ones((1, 2))}, tmp_path / "type.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(inputs.read_bytes()[:-1])
    (tmp_path / "junk.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "empty.safetensors").touch()
    outputs = tmp_path / "out.safetensors"
    cases: list[tuple[list[str | Path], int, str]] = [
        ([], 2, "name a bundle"),
        ([add, "--magic"], 2, "what is '--magic'"),
        ([add, add], 2, "what is"),
        ([add, "--inputs"], 2, "--inputs needs a value"),
        ([add, "--outputs", outputs], 2, "--outputs needs --inputs"),
        ([add, "--inputs", inputs, "--self-test"], 2, "--self-test"),
        ([add, "--serve", "--json"], 2, "--serve"),
        ([add, "--bench", "-1"], 2, "not a whole number"),
        ([add, "--bench", "99999999999999"], 2, "not a whole number"),
        ([add, "--part", "middle"], 2, "there is no part"),
        ([add, "--part", "decode", "--inputs", inputs], 2, "no decoding model"),
        ([add, "--backend", "abacus"], 2, "there is no back end"),
        ([tmp_path / "nothing.hsm"], 4, "is not a folder"),
        ([tmp_path], 4, "manifest.json"),
        ([add, "--inputs", tmp_path / "nothing"], 4, "cannot be read"),
        ([add, "--inputs", tmp_path], 4, "not a plain file"),
        ([add, "--inputs", "/dev/zero"], 4, "not a plain file"),
        ([add, "--inputs", tmp_path / "damaged.safetensors"], 4, "damaged.safetensors"),
        ([add, "--inputs", tmp_path / "junk.safetensors"], 4, "cut off or no .safetensors file"),
        ([add, "--inputs", tmp_path / "empty.safetensors"], 4, "cut off"),
        ([add, "--inputs", extra], 4, "'c' is no input of the model; it has a, b"),
        ([add, "--inputs", tmp_path / "type.safetensors"], 4, "is stored as F64; the model takes F32"),
        ([add, "--inputs", shape], 2, "'b' must have the shape"),
        ([add, "--inputs", inputs, "--outputs", tmp_path / "no" / "x"], 4, "cannot be written"),
        ([add, "--inputs", inputs, "--onnxruntime", tmp_path / "no.so"], 3, "ONNX Runtime cannot be loaded"),
    ]
    for arguments, code, words in cases:
        done = hsm_run(*arguments)
        assert (done.returncode, words in done.stderr) == (code, True), (arguments, done.returncode, done.stderr)
        assert done.stderr.count("error: ") == 1, (arguments, done.stderr)
        assert done.stdout == "", arguments
    assert not outputs.exists()
    assert not list(tmp_path.glob("*.part"))


def test_an_old_output_stays_when_the_run_fails(add: Path, tmp_path: Path) -> None:
    outputs = write(tmp_path / "out.safetensors", old=[1])
    before = outputs.read_bytes()
    wrong = write(tmp_path / "wrong.safetensors", a=[[1, 2]])
    assert hsm_run(add, "--inputs", wrong, "--outputs", outputs).returncode == 4
    assert outputs.read_bytes() == before


def test_help_teaches_by_example() -> None:
    done = hsm_run("--help")
    assert done.returncode == 0
    assert done.stdout.count("hsm-run model.hsm") >= 4
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.slow
def test_weights_are_mapped_not_read(tmp_path: Path) -> None:
    """Opening, verifying and loading a model with 64 MB beside its file reads next to nothing by calls."""
    weights = numpy_helper.from_array(np.random.default_rng(0).standard_normal((4096, 4096)).astype(np.float32), "w")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4096])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4096])]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.data")
    write_graph_bundle(onnx.load(str(tmp_path / "m.onnx"), load_external_data=False), tmp_path, tmp_path / "m.hsm")
    assert (tmp_path / "m.hsm" / "weights-0.data").stat().st_nlink == 2  # linked, not copied
    environment = {**os.environ, "HSM_ONNXRUNTIME_LIBRARY": str(onnxruntime_library())}
    command = [run_program_path(), tmp_path / "m.hsm", "--serve", "--kernels", custom_ops_path(), "--threads", "1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready onnxruntime-fused\n"
        lines = Path(f"/proc/{process.pid}/io").read_text().splitlines()
        process.stdin.close()
    read = next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))
    assert read < 1 << 20
