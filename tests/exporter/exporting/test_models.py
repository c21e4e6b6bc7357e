"""Every family of our own models, in every precision, at shapes other than the traced one."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import onnx.numpy_helper
import pytest
import torch
from tests.exporter.exporting.harness import assert_agrees, metadata
from tests.exporter.exporting.models import (
    CLASSIFIERS,
    MIXERS,
    VOCAB,
    classifier,
    language_model,
    switch_all,
)
from torch import Tensor, nn

import hsm_export

PRECISIONS = ("fp32", "fp16", "bf16")
# Batch and length: one token, fewer tokens than any shift, and more than were traced.
SHAPES = ((1, 1), (3, 2), (2, 37))
# A flipped choice of experts is no rounding error; comparing with a forced choice is the exporter's own check.
ROUTED = ("switch-head", "switch-head-xl", "switch-head-same-selection", "hybrid")

QUICK = [("hsm-gated2", "fp16"), ("taylor-shift", "bf16"), ("rwkv7", "fp32")]


def tokens(*shape: int, high: int = VOCAB) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(repr(shape).encode()))
    return torch.randint(0, high, shape, generator=generator)


def check_language_model(name: str, precision: str, path: Path) -> None:
    model = language_model(*MIXERS[name])
    hsm_export.export(model, output=path, precision=precision)
    shapes = SHAPES if precision == "fp32" or name not in ROUTED else ()
    assert_agrees(path, model, precision, *((tokens(*shape),) for shape in shapes))


@pytest.mark.parametrize(("name", "precision"), QUICK)
def test_language_models(name: str, precision: str, tmp_path: Path) -> None:
    check_language_model(name, precision, tmp_path / "m.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MIXERS)
def test_every_language_model(name: str, precision: str, tmp_path: Path) -> None:
    check_language_model(name, precision, tmp_path / "m.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_switch_all(precision: str, tmp_path: Path) -> None:
    model = switch_all()
    result = hsm_export.export(model, output=tmp_path / "m.onnx", precision=precision)
    assert result.mixers["layers.0.feed_forward"] == "ExpertMLP"
    if precision == "fp32":
        assert_agrees(tmp_path / "m.onnx", model, precision, *((tokens(*shape),) for shape in SHAPES))


def check_classifier(name: str, precision: str, path: Path) -> None:
    model = classifier(name)
    hsm_export.export(model, output=path, precision=precision)
    assert_agrees(path, model, precision, *(classifier_inputs(model, *shape) for shape in SHAPES))


def classifier_inputs(model: nn.Module, batch: int, length: int) -> tuple[Tensor, ...]:
    config = model.config
    if config.input == "image":
        return (torch.randn(batch, 3, config.image.size, config.image.size),)
    inputs = (tokens(batch, length, high=config.vocab_size),)
    return (*inputs, torch.arange(batch) % length + 1) if config.masked else inputs


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier(name: str, precision: str, tmp_path: Path) -> None:
    check_classifier(name, precision, tmp_path / "m.onnx")


def test_a_classifier_whose_tokens_read_ahead(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    check_classifier("around", "fp32", path)
    result = hsm_export.validate(path, against=classifier("around").eval())
    assert result.passed, result.summary
    rows = {row.name: row.details for row in hsm_export.inspect(path).mixers}  # type: ignore[attr-defined]
    assert rows["layers.0.mixer"]["shifts"] == [-1, 2] and rows["layers.0.mixer"]["causal"] is False


def test_a_language_models_file(tmp_path: Path) -> None:
    model = language_model(*MIXERS["hybrid"])
    result = hsm_export.export(model, output=tmp_path / "m.onnx")
    assert_agrees(result.path, model, "fp32", *((tokens(*shape),) for shape in SHAPES))
    file = onnx.load(result.path)

    assert [(value.name, value.type.tensor_type.elem_type) for value in file.graph.input] == [("tokens", 7)]
    assert [(value.name, value.type.tensor_type.elem_type) for value in file.graph.output] == [("logits", 1)]
    assert [dim.dim_param for dim in file.graph.input[0].type.tensor_type.shape.dim] == ["batch", "length"]
    sizes = [dim.dim_param or dim.dim_value for dim in file.graph.output[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", "length", VOCAB]
    assert result.mixers == {
        "layers.0.mixer": "ShiftMix",
        "layers.1.mixer": "Attention",
        "layers.2.mixer": "CausalTaylorShift",
        "layers.3.mixer.value": "ExpertMatMul",
        "layers.3.mixer": "Attention",
        "layers.3.mixer.output": "ExpertMatMulSum",
    }
    assert {function.name for function in file.functions} == set(result.mixers.values())
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    for name, parameter in model.named_parameters():
        stored = weights[name] if name in weights else weights[f"{name}.T"].T  # as products take them
        assert (stored == parameter.detach().numpy()).all(), name
    assert [entry.version for entry in file.opset_import if entry.domain == ""] == [18]
    # What the tracer writes about the machine and the code is gone.
    assert b"stack_trace" not in result.path.read_bytes()
    assert b"site-packages" not in result.path.read_bytes()

    notes = metadata(result.path)
    assert notes["precision"] == "fp32"
    assert notes["task"] == "language_model"
    assert type(model.config).from_json(notes["config"]) == model.config
    assert notes["source_sha256"] == result.source_sha256
    assert notes["opset"] == "2"
    (described,) = notes["inputs"]
    assert described == {
        "name": "tokens",
        "dtype": "int64",
        "shape": ["batch", "length"],
        "example_shape": [2, 9],
        "low": 0,
        "high": VOCAB - 1,
    }


def test_a_masked_classifier_takes_lengths(tmp_path: Path) -> None:
    model = classifier("masked")
    result = hsm_export.export(model, output=tmp_path / "m.onnx", precision="fp16")
    assert_agrees(result.path, model, "fp16", *(classifier_inputs(model, *shape) for shape in SHAPES))
    assert [spec.name for spec in result.inputs] == ["tokens", "lengths"]
    assert [spec.shape for spec in result.inputs] == [("batch", "length"), ("batch",)]
    assert [(spec.low, spec.high) for spec in result.inputs] == [(0, VOCAB - 1), (1, None)]
    assert result.mixers == {"layers.0.mixer": "TaylorShiftMasked"}
    report = json.loads(result.report.read_text())
    assert report["checks"][0]["max_abs_error"] == result.checks[0].max_abs_error
    assert report["sha256"] == hashlib.sha256(result.path.read_bytes()).hexdigest()
    assert set(report["versions"]) >= {"torch", "onnx", "onnxruntime"}
