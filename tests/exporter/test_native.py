"""Where the native libraries are, and sessions that use them."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.exporter.runtimes.fused import executed, needs_library
from tests.operators.harness import ANY_ATTRIBUTES, one_node_model

import hsm_export
from hsm_export import native
from hsm_export.errors import BadInputError, MissingDependencyError
from hsm_operators import functions_for, make_node
from hsm_operators.installation import RECORD


@pytest.fixture
def nothing_native(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installation without its native half; returns its folder."""
    monkeypatch.setattr("hsm_operators.installation.folders", lambda: iter([tmp_path]))
    return tmp_path


def test_without_the_library_the_error_says_what_to_do(nothing_native: Path) -> None:
    model = nothing_native / "m.onnx"
    onnx.save(one_node_model("TokenShift", {"shifts": [1]}), str(model))
    for call in (hsm_export.custom_ops_path, hsm_export.cmake_prefix_path, lambda: hsm_export.session(model)):
        with pytest.raises(MissingDependencyError) as error:
            call()
        assert "install a C++ compiler" in str(error.value.hint)
    assert native.build_record() is None
    assert native.find_library(native.CUSTOM_OPS) is None


def write_record(folder: Path, text: str) -> None:
    (folder / RECORD).parent.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(text)


def test_a_missing_plugin_library_is_explained_by_its_own_part(nothing_native: Path) -> None:
    left_out = "no:  TensorRT plugin library (CUDA kernels: there is no nvcc)"
    parts = ["yes: CPU kernels", "no:  CUDA kernels (x)", left_out]
    write_record(nothing_native, json.dumps({"parts": parts}))
    with pytest.raises(MissingDependencyError, match=r"TensorRT plugin library .*there is no nvcc") as error:
        hsm_export.tensorrt_plugin_path()
    assert "(x)" not in str(error.value)
    assert "nvcc" in str(error.value.hint)
    (nothing_native / "lib").mkdir()
    (nothing_native / "lib" / native.TENSORRT_PLUGINS).touch()
    assert hsm_export.tensorrt_plugin_path() == nothing_native / "lib" / native.TENSORRT_PLUGINS


def test_without_the_library_validation_skips_the_runtime(nothing_native: Path) -> None:
    from hsm_export.runtimes import get

    assert native.CUSTOM_OPS in str(get("ort-fused").available())


def test_a_damaged_record_counts_as_none(nothing_native: Path) -> None:
    write_record(nothing_native, "[")
    assert native.build_record() is None
    write_record(nothing_native, "[1]")
    assert native.build_record() is None
    write_record(nothing_native, '{"version": "1"}')
    assert native.build_record() == {"version": "1"}


def test_a_library_that_does_not_load_is_a_sentence(nothing_native: Path) -> None:
    from hsm_export.runtimes import get

    (nothing_native / "lib").mkdir()
    library = nothing_native / "lib" / native.CUSTOM_OPS
    library.write_bytes(b"no library")
    model = nothing_native / "m.onnx"
    onnx.save(one_node_model("TokenShift", {"shifts": [1]}), str(model))
    with pytest.raises(MissingDependencyError, match=f"does not take {library}"):
        hsm_export.session(model)
    assert str(library) in str(get("ort-fused").available())


@needs_library
def test_the_paths_exist() -> None:
    record = native.build_record()
    assert record is not None
    assert record["version"] == distribution("hsm-export").version
    assert native.CUSTOM_OPS in record["libraries"]  # type: ignore[operator]
    assert hsm_export.custom_ops_path().is_file()
    assert hsm_export.custom_ops_path().name == native.CUSTOM_OPS
    assert (hsm_export.cmake_prefix_path() / "lib/cmake/HsmPlugins/HsmPluginsConfig.cmake").is_file()


@needs_library
def test_a_session_runs_the_kernels_and_takes_options(tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "m.onnx"
    onnx.save(one_node_model("TokenShift", ANY_ATTRIBUTES["TokenShift"]), str(path))
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "p")
    first = hsm_export.session(path, options)
    second = hsm_export.session(str(path), options, providers=["CPUExecutionProvider"])
    x = np.ones((1, 2, 3), np.float32)
    for session in (first, second):
        session.run(None, {"x": x})
        assert executed(session) == ["TokenShift"]
        assert session.get_providers() == ["CPUExecutionProvider"]


@needs_library
@pytest.mark.parametrize("external", [False, True])
def test_a_bfloat16_file_runs(tmp_path: Path, external: bool) -> None:
    path = _bfloat16_file(tmp_path, external)
    x = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    (y,) = hsm_export.session(path).run(None, {"x": x})
    expected = np.zeros_like(x)
    expected[:, 1:] = x[:, :-1]
    np.testing.assert_array_equal(y, expected * 2)


def _bfloat16_file(folder: Path, external: bool) -> Path:
    """Write float32 x -> bfloat16 -> TokenShift -> Mul by a weight of 2 -> float32 y."""
    import ml_dtypes

    shift = make_node("TokenShift", ["h"], ["s"], "layers.0.mixer", shifts=[1])
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16),
        shift,
        helper.make_node("Mul", ["s", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    border = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length", 3]) for name in "xy"]
    weight = numpy_helper.from_array(np.full(3, 2, ml_dtypes.bfloat16), "w")
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("hsm", 1)]
    graph = helper.make_graph(nodes, "g", border[:1], border[1:], [weight])
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    model.functions.extend(functions_for(model))
    path = folder / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=external, location="m.data", size_threshold=0)
    return path


@needs_library
def test_files_that_cannot_be_loaded_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nothing"):
        hsm_export.session(tmp_path / "nothing.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"\x00garbage")
    with pytest.raises(BadInputError, match="cannot load"):
        hsm_export.session(damaged)
    lacking = _bfloat16_file(tmp_path, external=True)
    (tmp_path / "m.data").unlink()
    with pytest.raises(BadInputError, match="cannot load"):
        hsm_export.session(lacking)


def test_another_library_of_fused_kernels_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "libchanged.so"
    monkeypatch.setenv("HSM_FUSED_LIBRARY", str(library))
    with pytest.raises(MissingDependencyError, match=r"HSM_FUSED_LIBRARY names .*libchanged\.so, which is not there"):
        hsm_export.custom_ops_path()
    library.touch()
    assert hsm_export.custom_ops_path() == library
