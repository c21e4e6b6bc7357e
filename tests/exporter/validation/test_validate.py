"""The function `validate` on a model without our operators: verdicts, tolerances, planted faults, bad input."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.exporter.validation.tiny import TinyModel, change_weight, flip_largest, plant_nan

from hsm_export.errors import BadInputError, UsageError
from hsm_export.validation import validate

Writer = Callable[..., Path]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("with_source", [True, False])
def test_healthy_model_passes(tiny: torch.nn.Module, to_onnx: Writer, precision: str, with_source: bool) -> None:
    result = validate(to_onnx(tiny, precision), tiny if with_source else None)
    assert result.passed, result.summary
    assert result.precision == precision
    assert result.arbiter == ("torch64" if with_source else "onnx64")
    assert {report.runtime for report in result.runtimes} >= {"ort", "onnx-reference"}


def test_onnx64_is_a_runtime_like_any_other(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    result = validate(to_onnx(tiny), tiny, runtimes=["onnx64"])
    report = result.runtimes[-1]
    assert result.passed
    assert report.runtime == "onnx64"
    assert report.worst[0].errors.max_abs < 1e-11  # the file holds LayerNorm's epsilon in float32


def test_tolerance_is_derived(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    result = validate(to_onnx(tiny), tiny)
    for report in result.runtimes:
        for item in report.worst:
            assert item.threshold.value >= item.threshold.native
            assert item.threshold.value < 1e-5


def test_language_models_get_top1_and_kl(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    metrics = validate(to_onnx(tiny, task="language_model"), tiny, runtimes=["ort"]).runtimes[-1].language
    assert metrics is not None
    assert (metrics.top1_agreement, metrics.kl < 1e-9) == (1.0, True)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("change", [flip_largest, plant_nan, lambda a: a[:, ::-1].copy(), lambda a: a * 1.25])
def test_changed_weight_is_caught(
    tiny: torch.nn.Module, to_onnx: Writer, precision: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = to_onnx(tiny, precision)
    change_weight(path, "up", change)
    result = validate(path, tiny)
    assert not result.passed
    assert {failure.runtime for failure in result.failures} >= {"ort", "onnx-reference"}
    assert all(failure.output == "logits" for failure in result.failures)


def test_failure_names_output_shape_index_and_values(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    path = to_onnx(tiny)
    change_weight(path, "down", flip_largest)
    result = validate(path, tiny, runtimes=["ort"], shapes=[(2, 5)])
    worst = max(result.failures, key=lambda failure: failure.severity)
    column = int(np.abs(tiny.down.weight.detach().numpy()).max(1).argmax())
    assert worst.errors.worst_index[-1] == column  # the column whose weight changed
    for part in (
        "ort: output logits[",
        "input tokens 2×",
        f"{worst.errors.value:.6g}",
        f"{worst.errors.reference:.6g}",
    ):
        assert part in result.summary


def test_nan_weights_fail_without_a_checkpoint_too(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    path = to_onnx(tiny)
    change_weight(path, "up", plant_nan)
    result = validate(path)
    assert not result.passed
    assert "even in float64" in result.summary


def test_overflow_of_the_precision_itself_is_a_failure(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    with torch.no_grad():
        tiny.up.weight *= 60000
    assert validate(to_onnx(tiny, "bf16", "b.onnx"), tiny).passed
    result = validate(to_onnx(tiny, "fp16", "h.onnx"), tiny)
    assert not result.passed
    assert "overflow" in result.summary


def test_overflow_that_native_precision_does_not_have_is_a_failure(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    """A file that sums in fp16 what PyTorch sums in fp32: planted by scaling up and down again."""
    path = to_onnx(tiny, "fp16")
    change_weight(path, "up", lambda a: (a.astype(np.float32) * 60000).clip(-65504, 65504).astype(a.dtype))
    result = validate(path, tiny)
    assert not result.passed
    assert any("NaN or infinities" in (failure.reason or "") for failure in result.failures)


def test_another_checkpoint_is_said_loudly(tiny: torch.nn.Module, to_onnx: Writer, tmp_path: Path) -> None:
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        other.down.weight[0, 0] += 1
    assert not validate(to_onnx(tiny), other).passed


def test_own_inputs(tiny: torch.nn.Module, to_onnx: Writer, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, tokens=np.arange(6, dtype=np.int32).reshape(2, 3))
    result = validate(to_onnx(tiny), tiny, inputs=data)
    assert result.passed
    assert result.cases == ("data.npz",)
    assert result.runtimes[-1].worst[0].input_shapes == {"tokens": (2, 3)}


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"token": np.zeros((1, 2), int)}, "model's inputs are tokens"),
        ({}, "holds the arrays none"),
        ({"tokens": np.zeros((1, 2, 3), int)}, r"must have shape \(batch, length\)"),
        ({"tokens": np.zeros((1, 2))}, "must hold integers"),
        ({"tokens": np.full((1, 2), np.nan)}, "must hold integers"),
        ({"tokens": np.full((1, 2), 23)}, "must lie in -23…22"),
        ({"tokens": np.full((1, 2), -24)}, "must lie in -23…22"),
    ],
)
def test_bad_inputs_are_refused(
    tiny: torch.nn.Module, to_onnx: Writer, tmp_path: Path, arrays: dict[str, np.ndarray], says: str
) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, **arrays)
    with pytest.raises(BadInputError, match=says):
        validate(to_onnx(tiny), tiny, inputs=data)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"nonsense"])
def test_damaged_inputs_file_is_refused(tiny: torch.nn.Module, to_onnx: Writer, tmp_path: Path, content: bytes) -> None:
    data = tmp_path / "data.npz"
    data.write_bytes(content)
    with pytest.raises(BadInputError, match=r"not a readable \.npz"):
        validate(to_onnx(tiny), tiny, inputs=data)


def test_pickles_in_inputs_are_refused(tiny: torch.nn.Module, to_onnx: Writer, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, tokens=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInputError):
        validate(to_onnx(tiny), tiny, inputs=data)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_model_is_refused(tiny: torch.nn.Module, to_onnx: Writer, fraction: float) -> None:
    path = to_onnx(tiny)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(BadInputError):
        validate(path)


def test_garbage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    with pytest.raises(BadInputError, match="not a whole ONNX file"):
        validate(path)
    with pytest.raises(BadInputError, match="does not exist"):
        validate(tmp_path / "missing.onnx")


def test_malformed_metadata_is_refused(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    with pytest.raises(BadInputError, match="not valid JSON"):
        validate(to_onnx(tiny, inputs="{"))
    with pytest.raises(BadInputError, match="the graph has tokens"):
        validate(to_onnx(tiny, inputs=json.dumps([{"name": "pixels"}])))


def test_missing_external_data_is_refused(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    path = to_onnx(tiny)
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="weights.data", size_threshold=0)
    assert validate(path, tiny).passed
    assert validate(path).passed
    weights = path.with_name("weights.data")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadInputError, match="is truncated"):
        validate(path)
    weights.unlink()
    with pytest.raises(BadInputError, match="is missing"):
        validate(path)


def test_unknown_runtime_lists_the_known_ones(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    with pytest.raises(UsageError) as error:
        validate(to_onnx(tiny), tiny, runtimes=["tensorflow"])
    assert "onnx-reference" in (error.value.hint or "")


def test_torch_needs_a_checkpoint(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    with pytest.raises(UsageError, match="needs the PyTorch model"):
        validate(to_onnx(tiny), runtimes=["torch"])


def test_result_is_json(tiny: torch.nn.Module, to_onnx: Writer) -> None:
    path = to_onnx(tiny)
    change_weight(path, "up", plant_nan)
    data = json.loads(json.dumps(validate(path, tiny).to_dict(), allow_nan=False))
    assert data["passed"] is False
    assert data["failures"][0]["errors"]["value"] == "nan"


class OnlyFullPrecision(TinyModel):
    """A module of a user's own that mixes types when its weights are float16."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.up.weight.dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'")
        return super().forward(tokens)


def test_module_that_cannot_run_in_the_files_precision(tiny: TinyModel, to_onnx: Writer) -> None:
    module = OnlyFullPrecision().eval()
    module.load_state_dict(tiny.state_dict())
    result = validate(to_onnx(tiny, "fp16"), module)
    assert result.passed, result.summary
    assert result.baseline == "onnx-reference"
    assert any("PyTorch cannot run the model in fp16" in warning for warning in result.warnings)
