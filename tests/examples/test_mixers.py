"""The mixers of examples/mixers: one file each, and all the rest follows.

Each is held to a float64 formula written here, exported whole and as a decoding step in three precisions, judged in
every runtime of this machine, and built as an engine for TensorRT-RTX.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.shared import diagonal, made_once
from torch import nn

import hsm_export
from hsm_models import LanguageModel, MLPConfig, ModelConfig
from hsm_models.config import LayerConfig
from hsm_models.parts import MixerConfig

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "mixers"
NAMES = ("gated_linear_attention", "min_gru", "short_convolution", "retention", "rg_lru")
PRECISIONS = ("fp32", "fp16", "bf16")
RUNTIMES = ("torch", "onnx-reference", "ort", "cpp")
VOCAB = 29

JUDGED = diagonal(NAMES, PRECISIONS)

Array = npt.NDArray[np.float64]


def _load(name: str) -> ModuleType:
    """Import an example as a user's own file is imported."""
    key = f"example_{name}"
    if key not in sys.modules:
        found = importlib.util.spec_from_file_location(key, FOLDER / f"{name}.py")
        assert found is not None and found.loader is not None
        sys.modules[key] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[key])
    return sys.modules[key]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _gla(state: Array, q: Array, k: Array, v: Array, g: Array) -> tuple[Array, Array]:
    state = np.exp(g)[..., None] * state + np.einsum("hk,hv->hkv", k, v)
    return state, np.einsum("hk,hkv->hv", q, state)


def _min_gru(h: Array, gate: Array, candidate: Array) -> tuple[Array, Array]:
    z = _sigmoid(gate)
    h = (1 - z) * h + z * candidate
    return h, h


def _short_convolution(tail: Array, b: Array, c: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    window = np.concatenate([tail, (b * x)[None]])
    return window[1:], c * np.einsum("kd,dk->d", window, weight)


def _retention(state: Array, q: Array, k: Array, v: Array, decay: Array) -> tuple[Array, Array]:
    state = decay[:, None, None] * state + np.einsum("hk,hv->hkv", k, v)
    return state, np.einsum("hk,hkv->hv", q, state)


def _rg_lru(h: Array, x: Array, r: Array, i: Array, rate: Array) -> tuple[Array, Array]:
    a = np.exp(-8 * np.log1p(np.exp(rate)) * _sigmoid(r))
    h = a * h + np.sqrt(1 - a**2) * _sigmoid(i) * x
    return h, h


# The operator, the float64 formula of one token of one row, and sizes for its test.
FORMULAS: dict[str, tuple[str, Callable[..., tuple[Array, Array]], Mapping[str, int]]] = {
    "gated_linear_attention": ("gated_linear_attention", _gla, {"H": 2, "K": 3, "V": 5}),
    "min_gru": ("min_gru", _min_gru, {"D": 7}),
    "short_convolution": ("short_convolution", _short_convolution, {"D": 5, "K": 4, "R": 3}),
    "retention": ("retention", _retention, {"H": 3, "K": 2, "V": 5}),
    "rg_lru": ("rg_lru", _rg_lru, {"D": 7}),
}


def _operands(name: str, batch: int, length: int) -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
    """Return the operator's function, random float64 inputs in order, and unequal lengths; NaN stands beyond them."""
    called = getattr(_load(name), FORMULAS[name][0])
    sizes = {**FORMULAS[name][2], "B": batch, "T": length}
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    lengths = torch.tensor([(length * (row + 1)) // batch for row in range(batch)])
    inputs: dict[str, torch.Tensor] = {}
    for port in called.operator.inputs:
        if port.name == "lengths":
            continue
        tensor = torch.randn([sizes[size] for size in port.shape], generator=generator, dtype=torch.float64)
        if "T" in port.shape:
            for row, valid in enumerate(lengths):
                tensor[row, valid:] = torch.nan
        inputs[port.name] = -tensor.abs() if port.name == "g" else tensor
    return called, inputs, lengths


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 13)])
def test_the_operator_is_its_formula_and_steps_and_chunks_are_the_whole(name: str, batch: int, length: int) -> None:
    called, inputs, lengths = _operands(name, batch, length)
    (past,) = (state.past for state in called.operator.states)
    whole, last = called(**inputs, lengths=lengths)
    timed = [p.name for p in called.operator.inputs if "T" in p.shape]
    for row, valid in enumerate(lengths.tolist()):
        state = inputs[past][row].numpy()
        for token in range(valid):
            now = {key: value[row, token].numpy() for key, value in inputs.items() if key in timed}
            fixed = {key: value.numpy() for key, value in inputs.items() if key not in timed and key != past}
            state, y = FORMULAS[name][1](state, **now, **fixed)
            np.testing.assert_allclose(whole[row, token].numpy(), y, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(last[row].numpy(), state, rtol=1e-12, atol=1e-12)
    for size in (1, 4):
        state, pieces = inputs[past], []
        for start in range(0, length, size):
            part = {key: value[:, start : start + size] if key in timed else value for key, value in inputs.items()}
            left = (lengths - start).clamp(0, part[timed[0]].shape[1])
            y, state = called(**{**part, past: state}, lengths=left)
            pieces.append(y)
        joined = torch.cat(pieces, 1)
        for row, valid in enumerate(lengths.tolist()):
            torch.testing.assert_close(joined[row, :valid], whole[row, :valid], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)


def _config(name: str) -> MixerConfig:
    (config,) = (
        value
        for value in vars(_load(name)).values()
        if isinstance(value, type) and issubclass(value, MixerConfig) and value is not MixerConfig
    )
    return config()


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    """A layer of each mixer, with fresh weights."""
    made: dict[str, nn.Module] = {}
    for name in NAMES:
        torch.manual_seed(0)
        layers = (LayerConfig(_config(name), MLPConfig(24)),)
        made[name] = LanguageModel(ModelConfig("language_model", 16, layers, vocab_size=VOCAB)).eval()
    return made


def _decoding(name: str, precision: str, models: dict[str, nn.Module]) -> Path:
    """Return the file of a model's decoding steps."""
    return made_once(
        f"mixer-{name}-{precision}.onnx",
        lambda path: hsm_export.export(models[name], output=path, decode=True, precision=precision),
    )


@pytest.mark.parametrize(("name", "precision"), JUDGED)
def test_a_whole_sequence_runs_everywhere(
    name: str, precision: str, models: dict[str, nn.Module], tmp_path: Path
) -> None:
    path = tmp_path / "whole.onnx"
    tokens = torch.randint(VOCAB, (2, 9))
    exported = hsm_export.export(models[name], (tokens,), path, precision=precision)
    called = getattr(_load(name), FORMULAS[name][0])
    assert set(exported.mixers.values()) == {called.operator.qualified_name}
    result = hsm_export.validate(path, models[name], runtimes=RUNTIMES, shapes=[(1, 1), (2, 13)])
    assert {run.runtime: run.verdict for run in result.runtimes} == {
        runtime: "baseline" if runtime == "torch" else "passed" for runtime in RUNTIMES
    }


@pytest.mark.parametrize(("name", "precision"), JUDGED)
def test_it_decodes_everywhere(name: str, precision: str, models: dict[str, nn.Module]) -> None:
    path = _decoding(name, precision, models)
    result = hsm_export.validate(path, models[name], runtimes=RUNTIMES, steps=5)
    assert {run.runtime: run.verdict for run in result.runtimes} == {
        runtime: "baseline" if runtime == "torch" else "passed" for runtime in RUNTIMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_is_built_from_its_body(name: str, models: dict[str, nn.Module], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    built = hsm_export.build(_decoding(name, "fp32", models), tmp_path / "decoding.engine", architectures=["sm86"])
    assert {tensor.name for tensor in built.outputs} >= {"logits"}


def test_no_example_is_longer_than_a_file_of_its_kind_may_be() -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FOLDER.glob("*.py")}
    assert set(lines) == {f"{name}.py" for name in NAMES}
    assert max(lines.values()) <= 120
