"""Verification opens what is inside, and runs the self-test."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file
from tests.exporter.building.hand_made import token_model
from tests.exporter.bundling.conftest import Exported
from tests.exporter.bundling.engines import pretend_engine
from tests.exporter.bundling.hostile import edit

from hsm_export.bundling import bundle, open_bundle, verify_bundle
from hsm_export.errors import BadInputError, MissingDependencyError, NumbersDifferError
from hsm_export.native import run_program_path
from hsm_export.runtimes import get
from hsm_export.runtimes.cpp import onnxruntime_library

FUSED = pytest.mark.skipif(get("ort-fused").available() is not None, reason="the fused kernels are not installed")


@pytest.fixture
def copy(language_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the language model's bundle."""
    return Path(shutil.copytree(language_bundle, tmp_path / "lm.hsm"))


def accept(folder: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed, as a forger would."""
    data = (folder / name).read_bytes()
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(folder, lambda manifest: manifest["files"].update({name: entry}))


@pytest.mark.parametrize("runtime", [None, "ort", pytest.param("ort-fused", marks=FUSED)])
def test_good(language_bundle: Path, runtime: str | None) -> None:
    result = verify_bundle(language_bundle, self_test=runtime)
    assert result.runtime == runtime
    assert [check.output for check in result.checks] == (["model.logits", "decode.logits"] if runtime else [])
    for check in result.checks:
        assert 0 < check.max_abs_error <= check.tolerance
        assert check.compared > 1000


def test_self_test_without_a_checkpoint(good: Path) -> None:
    (check,) = verify_bundle(good, self_test="ort").checks
    assert check.output == "model.logits"


@pytest.mark.parametrize("part", ["model", "decode"])
def test_wrong_numbers(copy: Path, part: str) -> None:
    """A wrong number in the file, beyond the tolerance, fails; one within it does not."""
    name = f"{part}.outputs.logits"
    tolerance = open_bundle(copy).manifest.self_test.tolerances[f"{part}.logits"]
    arrays = load_file(copy / "self-test.safetensors")
    index = tuple(np.argwhere(np.isfinite(arrays[name]))[3])
    exact = arrays[name][index]
    for change in (4 * tolerance, -4 * tolerance):
        arrays[name][index] = exact + change
        save_file(arrays, copy / "self-test.safetensors")
        accept(copy, "self-test.safetensors")
        with pytest.raises(NumbersDifferError, match=f"{part}.logits is off by"):
            verify_bundle(copy, self_test="ort")


def test_nan_of_the_runtime_fails(good: Path, tmp_path: Path) -> None:
    """Weights that give NaN where numbers are expected: NaN is within no tolerance."""
    folder = Path(shutil.copytree(good, tmp_path / "a.hsm"))
    model = onnx.load(folder / "model.onnx")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "scale")
    scale.raw_data = np.full(scale.dims, np.nan, np.float32).tobytes()
    onnx.save(model, folder / "model.onnx")
    accept(folder, "model.onnx")
    with pytest.raises(NumbersDifferError, match="it holds NaN"):
        verify_bundle(folder, self_test="ort")


def test_self_test_lacks_an_output(copy: Path) -> None:
    arrays = load_file(copy / "self-test.safetensors")
    del arrays["decode.outputs.logits"]
    save_file(arrays, copy / "self-test.safetensors")
    accept(copy, "self-test.safetensors")
    with pytest.raises(BadInputError, match=r"lacks decode\.outputs\.logits"):
        verify_bundle(copy)


def test_damaged_self_test(copy: Path) -> None:
    (copy / "self-test.safetensors").write_bytes(b"\xff" * 64)
    accept(copy, "self-test.safetensors")
    with pytest.raises(BadInputError, match="not a readable self-test"):
        verify_bundle(copy)


def test_another_model(copy: Path, tmp_path: Path) -> None:
    shutil.copyfile(token_model(tmp_path / "other.onnx"), copy / "model.onnx")
    accept(copy, "model.onnx")
    with pytest.raises(BadInputError, match=r"the output 'logits' is .*, the manifest says"):
        verify_bundle(copy)


def test_another_state(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["decode"]["state"].update(rollback=7))
    with pytest.raises(BadInputError, match="its state is not the one that the manifest describes"):
        verify_bundle(copy)


@pytest.mark.parametrize("external", [False, True])
def test_graph_for_cpus(tmp_path: Path, external: bool) -> None:
    """The numbers of the graph for CPUs are tested, and it must be the model's own."""
    bundle(token_model(tmp_path / "a.onnx", precision="bf16", external=external), tmp_path / "a.hsm")
    (check,) = verify_bundle(tmp_path / "a.hsm", self_test="ort").checks
    assert check.max_abs_error <= check.tolerance


def _others_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].raw_data = bytes(len(model.graph.initializer[1].raw_data))


def _others_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


@pytest.mark.parametrize("change", [_others_weights, _others_output])
def test_graph_for_cpus_of_another_model(tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    bundle(token_model(tmp_path / "a.onnx", precision="bf16"), tmp_path / "a.hsm")
    variant = onnx.load(tmp_path / "a.hsm" / "model.cpu.onnx")
    change(variant)
    onnx.save(variant, tmp_path / "a.hsm" / "model.cpu.onnx")
    accept(tmp_path / "a.hsm", "model.cpu.onnx")
    with pytest.raises(BadInputError, match=r"model\.cpu\.onnx(: the output .* says| is not model\.onnx rewritten)"):
        verify_bundle(tmp_path / "a.hsm")


def test_model_that_is_none(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"no protocol buffer at all")
    accept(copy, "model.onnx")
    with pytest.raises(BadInputError, match="not a whole ONNX file"):
        verify_bundle(copy)


@pytest.mark.parametrize("location", ["../secret.data", "secret.data"])
def test_weights_elsewhere(tmp_path: Path, location: str) -> None:
    """Weights outside the bundle, or in a file that the manifest does not list, are not read."""
    bundle(token_model(tmp_path / "a.onnx", external=True), tmp_path / "a.hsm")
    folder = tmp_path / "a.hsm"
    shutil.copyfile(folder / "a.onnx.data", tmp_path / "secret.data")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    accept(folder, "model.onnx")
    with pytest.raises(BadInputError, match=r"outside its own directory|is missing"):
        verify_bundle(folder)


def test_side_file_of_another_engine(exported: Exported, tmp_path: Path) -> None:
    engine = pretend_engine(tmp_path / "a.engine", exported.model)
    bundle(exported.model, tmp_path / "lm.hsm", engines=[engine])
    assert verify_bundle(tmp_path / "lm.hsm").engines == {"engines/a.engine": ("sm86",)}
    name = "engines/a.engine.json"
    side: dict[str, Any] = json.loads((tmp_path / "lm.hsm" / name).read_text())
    (tmp_path / "lm.hsm" / name).write_text(json.dumps({**side, "engine_sha256": "0" * 64}))
    accept(tmp_path / "lm.hsm", name)
    with pytest.raises(BadInputError, match="not the engine that its side file describes"):
        verify_bundle(tmp_path / "lm.hsm")


def test_missing_runtime(good: Path) -> None:
    if get("tensorrt").available() is None:
        pytest.skip("TensorRT works here")
    with pytest.raises(MissingDependencyError, match="does not work here"):
        verify_bundle(good, self_test="tensorrt")


def labels_model(path: Path) -> Path:
    """A classifier: scores, the best class (int64) and whether it is a sure one (bool)."""
    weight = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        helper.make_node("ReduceMax", ["scores"], ["best"], axes=[1], keepdims=0),
        helper.make_node("Greater", ["best", "zero"], ["sure"]),
    ]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 5]),
        helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("sure", TensorProto.BOOL, ["batch"]),
    ]
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.float32(0), "zero")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])
    graph = helper.make_graph(nodes, "labels", [x], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_whole_numbers_and_booleans_must_be_equal(tmp_path: Path) -> None:
    folder = tmp_path / "a.hsm"
    written = bundle(labels_model(tmp_path / "a.onnx"), folder)
    assert {"model.label": 0.0, "model.sure": 0.0}.items() <= written.tolerances.items()
    assert len(verify_bundle(folder, self_test="ort").checks) == 3
    arrays = load_file(folder / "self-test.safetensors")
    assert _hsm_run(folder) in (None, 0)
    for name in ("label", "sure"):
        wrong = {key: array.copy() for key, array in arrays.items()}
        wrong[f"model.outputs.{name}"][1] ^= 1
        save_file(wrong, folder / "self-test.safetensors")
        accept(folder, "self-test.safetensors")
        with pytest.raises(NumbersDifferError, match=f"model.{name} is off"):
            verify_bundle(folder, self_test="ort")
        assert _hsm_run(folder) in (None, 5)


def _hsm_run(folder: Path) -> int | None:
    """Return the exit code of the C++ runtime's self-test; None where there is no such program."""
    if get("cpp").available() is not None:
        return None
    command = [str(run_program_path()), str(folder), "--self-test", "--onnxruntime", str(onnxruntime_library())]
    return subprocess.run(command, capture_output=True, timeout=120).returncode
