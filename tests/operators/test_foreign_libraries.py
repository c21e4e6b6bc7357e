"""An operator of somebody else, with its libraries: every command loads them, or says what to build."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.foreign import DOMAIN, MARK, NAME, needs_compilers, needs_nvcc

import hsm_export
from hsm_export.onnx_model.fusing import fusion
from hsm_export.runtimes import get
from hsm_operators import find, libraries, registry, use_kernels
from hsm_operators.libraries import VARIABLE
from tests import foreign

pytestmark = needs_compilers
OPERATOR = f"{DOMAIN}::{NAME}"


@pytest.fixture(scope="module")
def folder() -> Path:
    """The operator's folder, with its libraries; the operator is known."""
    hsm_export.load_operators(str(foreign.built()))
    return foreign.built()


def tagger() -> torch.nn.Module:
    """Return a model of the operator."""
    import sys

    module: torch.nn.Module = sys.modules["hsm_export_operators.scale_mix.torch_op"].Tagger().eval()
    return module


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's file."""
    path = tmp_path_factory.mktemp("model") / "tagger.onnx"
    hsm_export.export(tagger(), (torch.randn(2, 9, 16),), path)
    return path


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> Iterator[None]:
    """The operator's libraries are not built: it is defined in a folder without them."""
    bare = foreign.copy(tmp_path / "bare")
    monkeypatch.setitem(registry._origins, OPERATOR, bare / "spec.py")
    yield


def test_a_session_runs_its_kernel(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.randn(2, 7, 16)
    run = hsm_export.session(model).run
    (found,) = run(None, {"frames": frames.numpy()})
    np.testing.assert_allclose(found, tagger()(frames).detach().numpy(), rtol=1e-4, atol=1e-4)
    monkeypatch.setenv(MARK, "1")
    (marked,) = run(None, {"frames": frames.numpy()})
    assert np.abs(marked - found).max() > 100


def test_a_session_without_its_library_runs_the_body_and_says_what_to_build(
    model: Path, without: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, "1")
    frames = torch.randn(2, 7, 16)
    with pytest.warns(RuntimeWarning, match=r"libscale_mix_onnxruntime.so is missing; run: hsm-export operator build"):
        session = hsm_export.session(model)
    (found,) = session.run(None, {"frames": frames.numpy()})
    with use_kernels(False):
        expected = tagger()(frames).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_where_nobody_registered_it_the_environment_names_its_libraries(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(registry._registered, (DOMAIN, NAME))
    monkeypatch.delitem(registry._origins, OPERATOR)
    assert find(DOMAIN, NAME) is None
    known = fusion(onnx.load(model), "onnxruntime")
    assert not known.libraries and "there is no library of its kernels" in known.bodies[OPERATOR]
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path), str(folder / "lib")]))
    assert [path.name for path in fusion(onnx.load(model), "onnxruntime").libraries] == ["libscale_mix_onnxruntime.so"]


def test_two_libraries_of_one_domain_are_told_to_be_built_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = find(DOMAIN, NAME)
    assert one is not None
    from dataclasses import replace

    other = replace(one, name="OtherMix", torch_name="other_mix")
    monkeypatch.setitem(registry._origins, other.qualified_name, tmp_path / "other" / "spec.py")
    path = tmp_path / "other" / "lib" / "libother_onnxruntime.so"
    path.parent.mkdir(parents=True)
    shutil.copy(folder / "lib" / "libscale_mix_onnxruntime.so", path)
    held = libraries.Library(path, frozenset({libraries.signature(other)}))
    real = libraries.open_library
    monkeypatch.setattr(libraries, "open_library", lambda p: held if p == path else real(p))
    selection = libraries.select([one, other], "onnxruntime")
    assert selection.paths == (folder / "lib" / "libscale_mix_onnxruntime.so",)
    sentence = selection.missing[other.qualified_name]
    assert "ONNX Runtime takes one library of a domain" in sentence
    assert f"build them together: hsm-export operator build {folder} {tmp_path / 'other'} --output" in sentence


def test_validation_runs_the_kernels_and_finds_a_wrong_one(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = hsm_export.validate(model, against=tagger(), runtimes=["ort", "ort-fused"])
    assert result.passed and not any("body" in note for note in result.notes)
    monkeypatch.setenv(MARK, "1")
    wrong = hsm_export.validate(model, against=tagger(), runtimes=["ort", "ort-fused"])
    assert not wrong.passed and {item.runtime for item in wrong.failures} == {"ort-fused"}


def test_validation_and_diff_say_what_runs_as_a_body(model: Path, without: None) -> None:
    result = hsm_export.validate(model, against=tagger(), runtimes=["ort-fused"])
    (note,) = [note for note in result.notes if note.startswith("ort-fused: ")]
    assert result.passed and f"{OPERATOR} runs as its body" in note and "hsm-export operator build" in note
    found = hsm_export.diff(model, against=tagger(), runtimes=["ort-fused"])
    (report,) = [item for item in found.runtimes if item.runtime == "ort-fused"]
    assert any(f"{OPERATOR} runs as its body" in note for note in report.notes)


def test_cuda_emulated_says_that_it_has_our_kernels_alone(model: Path) -> None:
    (note,) = get("cuda-emulated").notes(onnx.load(model))
    assert note.startswith(f"{OPERATOR} runs as its body: our own CUDA kernels alone are in it")


def test_diff_blames_the_kernel(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "1")
    found = hsm_export.diff(
        model, against=tagger(), runtimes=["ort-fused"], options=hsm_export.DiffOptions(layers=True)
    )
    assert not found.passed and NAME in found.summary


def test_a_benchmark_times_the_kernels(model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSM_EXPORT_OPERATORS", str(folder))  # for the processes of the runtimes
    result = hsm_export.bench(model, runtimes=["ort-fused"], batch=1, lengths=[8], repetitions=1, threads=1)
    assert result.notes == () and result.measurements


def test_pytorch_runs_its_kernel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "1")
    x, gain = torch.randn(1, 3, 4), torch.randn(4)
    operator = torch.ops.foreign.scale_mix
    with use_kernels():
        torch.testing.assert_close(operator(x, gain, 2), x * gain * 2 + 1000)
    with use_kernels(False):
        torch.testing.assert_close(operator(x, gain, 2), x * gain * 2)


@needs_nvcc
def test_an_engine_of_tensorrt_rtx_has_its_plugin_layers(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    built = hsm_export.build(model, tmp_path / "m.engine", architectures=["sm86"], plugins=True)
    assert built.plugins is not None and built.plugins.file == "libscale_mix_tensorrt.so"
    assert list(built.plugins.layers.values()) == [OPERATOR] and built.plugins.further == {}
    assert not any("body" in warning.message for warning in built.warnings)


def test_an_engine_is_built_of_the_body_where_the_plugins_are_missing(
    model: Path, without: None, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    built = hsm_export.build(model, tmp_path / "m.engine", architectures=["sm86"], plugins=True)
    assert built.plugins is None
    assert any("libscale_mix_tensorrt.so is missing" in warning.message for warning in built.warnings)


@pytest.mark.slow
def test_two_folders_of_one_domain_run_in_one_session_once_they_are_built_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operators of the domain `together` in two folders: a library each, and then one of both."""
    for name in ("left", "right"):
        own = foreign.copy(tmp_path, name)
        for path in own.iterdir():
            text = path.read_text().replace(f'domain="{name}"', 'domain="together"').replace("SCALE_MIX_MARK", MARK)
            for old in ("ScaleMix", "scale_mix"):
                text = text.replace(old, {"ScaleMix": f"{name.title()}Mix", "scale_mix": f"{name}_mix"}[old])
            path.write_text(text)
        hsm_export.build_operators(own, only=["onnxruntime"])
        hsm_export.load_operators(str(own))
    left, right = (find("together", f"{name}Mix") for name in ("Left", "Right"))
    assert left is not None and right is not None

    class Both(torch.nn.Module):
        def forward(self, frames: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
            ops = torch.ops.together
            mixed: torch.Tensor = ops.left_mix(ops.right_mix(frames, gain, 2), gain, 3)
            return mixed

    path = tmp_path / "both.onnx"
    frames, gain = torch.randn(2, 5, 4), torch.randn(4)
    hsm_export.export(Both(), (frames, gain), path)
    feed = {"frames": frames.numpy(), "gain": gain.numpy()}
    expected = (frames * gain * 6 * gain).numpy()
    # In two libraries: one runs, the other is a body, and the warning says how to get both.
    command = f"hsm-export operator build {tmp_path / 'right'} {tmp_path / 'left'}"
    with pytest.warns(RuntimeWarning, match="build them together: " + command.replace(".", r"\.")):
        apart = hsm_export.session(path)
    np.testing.assert_allclose(apart.run(None, feed)[0], expected, rtol=1e-5, atol=1e-5)
    result = hsm_export.build_operators([tmp_path / "right", tmp_path / "left"], only=["onnxruntime"])
    assert result.libraries[0].path == tmp_path / "lib" / "libright_left_onnxruntime.so"
    assert fusion(onnx.load(path), "onnxruntime").domains == {"together"}
    together = hsm_export.session(path)
    np.testing.assert_allclose(together.run(None, feed)[0], expected, rtol=1e-5, atol=1e-5)
    monkeypatch.setenv(MARK, "1")
    # The kernels add 1000 each, the first of them before it is scaled by the second.
    marked = (frames * gain * 2 + 1000) * gain * 3 + 1000
    np.testing.assert_allclose(together.run(None, feed)[0], marked.numpy(), rtol=1e-5, atol=1e-2)
