"""Validation of exported models: healthy ones pass in every precision, planted faults never do."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.exporter.validation.families import FAMILIES, random_config, write_checkpoint
from tests.shared import made_once

import hsm_export
from hsm_export.validation import ValidationResult
from hsm_models import (
    HSMConfig,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    SwitchHeadConfig,
    TaylorShiftConfig,
)

WIDTH = 24
CONFIGS = {
    "hsm": ModelConfig(
        task="language_model",
        width=WIDTH,
        vocab_size=31,
        layers=(LayerConfig(HSMConfig(shifts=(1, 3)), MLPConfig(40)), LayerConfig(HSMConfig(mixing="matrix"), None)),
    ),
    "switch_head": ModelConfig(
        task="language_model",
        width=WIDTH,
        vocab_size=31,
        layers=(LayerConfig(SwitchHeadConfig(heads=2, experts=3, active=2), MLPConfig(40)),),
    ),
    "taylor_shift": ModelConfig(
        task="sequence_classifier",
        width=WIDTH,
        vocab_size=16,
        input="pixels",
        positions="learned",
        max_length=40,
        classes=5,
        masked=True,
        layers=(LayerConfig(TaylorShiftConfig(heads=6), MLPConfig(40)),),
    ),
}


class Exported:
    """A checkpoint and the files exported from it, each made at its first use."""

    def checkpoint(self, family: str) -> Path:
        return made_once(f"{family}.safetensors", lambda path: write_checkpoint(CONFIGS[family], path, seed=1))

    def file(self, family: str, precision: str = "fp32") -> Path:
        return made_once(
            f"{family}-{precision}.onnx",
            lambda path: hsm_export.export(self.checkpoint(family), output=path, precision=precision),
        )


@pytest.fixture(scope="module")
def exported() -> Exported:
    return Exported()


@pytest.mark.parametrize(("family", "precision"), [("hsm", "fp32"), ("switch_head", "fp16"), ("taylor_shift", "bf16")])
def test_healthy_model_passes(exported: Exported, family: str, precision: str) -> None:
    path, checkpoint = exported.file(family, precision), exported.checkpoint(family)
    for against in (checkpoint, None):
        result = hsm_export.validate(path, against)
        assert result.passed, result.summary
        assert result.precision == precision
        judged = {report.runtime for report in result.runtimes if report.verdict == "passed"}
        assert judged >= ({"onnx-reference", "ort"} if against else {"ort"})


def test_awkward_cases_are_there(exported: Exported) -> None:
    """Head width 4: crossover N0 = 21 with the CLS token, so 19, 20 and 21 tokens of input, and 1."""
    result = hsm_export.validate(
        exported.file("taylor_shift", "bf16"), exported.checkpoint("taylor_shift"), runtimes=["ort"]
    )
    assert result.passed, result.summary
    for length in (1, 19, 20, 21):
        assert any(case.endswith(f"×{length}") for case in result.cases)
    assert any("random 3×" in case for case in result.cases)
    assert any(case == "last token repeated" for case in result.cases)


def _change(path: Path, target: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Copy a file with one initialiser changed; `name` is the end of its name."""
    model = onnx.load(str(path))
    tensor = next(item for item in model.graph.initializer if item.name.removesuffix(".T").endswith(name))
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))
    onnx.save(model, str(target))
    return target


def _largest(array: np.ndarray) -> tuple[np.intp, ...]:
    return np.unravel_index(np.abs(array.astype(np.float32)).argmax(), array.shape)


def _wrong_sign(array: np.ndarray) -> np.ndarray:
    array[_largest(array)] *= -1
    return array


def _one_nan(array: np.ndarray) -> np.ndarray:
    array[_largest(array)] = np.nan
    return array


def _swap_experts(array: np.ndarray) -> np.ndarray:
    array[0, [0, 1]] = array[0, [1, 0]]
    return array


def _assert_caught(result: ValidationResult) -> None:
    assert not result.passed
    judged = {report.runtime for report in result.runtimes if report.verdict not in ("baseline", "skipped")}
    assert judged >= {"onnx-reference", "ort"}
    assert {report.runtime for report in result.runtimes if report.verdict == "failed"} == judged
    assert "logits" in result.summary
    assert result.failures[0].errors.worst_index


@pytest.mark.parametrize(
    ("family", "precision", "name", "fault"),
    [
        ("hsm", "fp32", "layers.0.mixer.mixing.alpha", _wrong_sign),
        ("hsm", "fp32", "layers.0.mixer.mixing.alpha", _one_nan),
        ("switch_head", "fp16", "layers.0.mixer.value.weight", _swap_experts),
        ("switch_head", "fp16", "layers.0.mixer.output.weight", _one_nan),
        ("taylor_shift", "bf16", "layers.0.mixer.qkv.bias", _wrong_sign),
    ],
)
def test_changed_weight_is_caught(
    exported: Exported,
    tmp_path: Path,
    family: str,
    precision: str,
    name: str,
    fault: Callable[[np.ndarray], np.ndarray],
) -> None:
    path = _change(exported.file(family, precision), tmp_path / "bad.onnx", name, fault)
    _assert_caught(hsm_export.validate(path, exported.checkpoint(family)))


def test_transposed_weight_is_caught(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(str(exported.file("hsm")))
    square = next(item for item in model.graph.initializer if list(item.dims) == [WIDTH, WIDTH])
    path = _change(
        exported.file("hsm"), tmp_path / "bad.onnx", square.name.removesuffix(".T"), lambda a: np.ascontiguousarray(a.T)
    )
    _assert_caught(hsm_export.validate(path, exported.checkpoint("hsm")))


def test_shift_off_by_one_is_caught_and_located(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(str(exported.file("hsm")))
    node = next(node for node in model.graph.node if node.op_type == "ShiftMix")
    shifts = next(item for item in node.attribute if item.name == "shifts")
    shifts.ints[1] += 1
    onnx.save(model, str(tmp_path / "bad.onnx"))
    result = hsm_export.validate(tmp_path / "bad.onnx", exported.checkpoint("hsm"))
    _assert_caught(result)
    assert all(node.name in (report.departs or "") for report in result.runtimes if report.verdict == "failed")


def test_overflow_is_caught(exported: Exported, tmp_path: Path) -> None:
    """Weights that fp16 holds but whose products it does not."""
    path = _change(
        exported.file("switch_head", "fp16"),
        tmp_path / "bad.onnx",
        "up.weight",
        lambda a: np.sign(a) * a.dtype.type(60000),
    )
    result = hsm_export.validate(path, exported.checkpoint("switch_head"))
    _assert_caught(result)
    assert "holds NaN or infinities" in result.summary


def test_another_checkpoint_is_said_loudly(exported: Exported, tmp_path: Path) -> None:
    other = write_checkpoint(CONFIGS["hsm"], tmp_path / "other.safetensors", seed=2)
    result = hsm_export.validate(exported.file("hsm"), other, runtimes=["ort"])
    assert not result.passed
    assert any("NOT the checkpoint" in warning for warning in result.warnings)
    copied = shutil.copy(exported.checkpoint("hsm"), tmp_path / "copy.safetensors")
    assert not hsm_export.validate(exported.file("hsm"), copied, runtimes=["ort"]).warnings


def test_checkpoint_of_another_architecture(exported: Exported) -> None:
    """It cannot even be run, or its numbers differ; either way nobody takes it for proof."""
    result = hsm_export.validate(exported.file("hsm"), exported.checkpoint("switch_head"))
    assert not result.passed
    with pytest.raises(hsm_export.errors.BadInputError, match="takes none of the"):
        hsm_export.validate(exported.file("taylor_shift", "bf16"), exported.checkpoint("hsm"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_no_false_alarm(tmp_path: Path, family: str, precision: str, seed: int) -> None:
    config = random_config(family, random.Random(f"{family}{precision}{seed}"))
    checkpoint = write_checkpoint(config, tmp_path / "c.safetensors", seed)
    hsm_export.export(checkpoint, output=tmp_path / "m.onnx", precision=precision)
    for against in (checkpoint, None):
        result = hsm_export.validate(tmp_path / "m.onnx", against)
        assert result.passed, f"{config}: {result.summary}"


@pytest.mark.slow
def test_form_that_pytorch_would_not_choose(tmp_path: Path) -> None:
    """Wide heads, no normalisation: PyTorch's direct form is far more accurate than the efficient one of the file."""
    mixer = TaylorShiftConfig(heads=2, normalize=False)
    config = ModelConfig(
        task="sequence_classifier",
        width=64,
        vocab_size=64,
        classes=10,
        positions="sinusoidal",
        max_length=2000,
        layers=(LayerConfig(mixer, MLPConfig(128)),) * 2,
    )
    checkpoint = write_checkpoint(config, tmp_path / "c.safetensors", seed=1)
    hsm_export.export(checkpoint, output=tmp_path / "m.onnx")
    result = hsm_export.validate(tmp_path / "m.onnx", checkpoint)
    assert result.passed, result.summary
