"""A language model whose mixer is an operator of one's own, by its step: decoding export, chunks, generation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from tests.operators.samples import gated_linear
from tests.shared import made_once
from torch import Tensor, nn

import hsm_export
from hsm_models import HSMConfig, LayerConfig, ModelConfig, build_model
from hsm_models.mixers.mixer import HeadsConfig, Mixer
from hsm_models.parts import mixer
from hsm_models.state import StateEntry


@dataclass(frozen=True)
class GatedConfig(HeadsConfig):
    """Gated linear attention, written for these tests."""


@mixer("samples_gated", GatedConfig)
class Gated(Mixer):
    """y = W gated_linear(q, k, v, gate)."""

    def __init__(self, width: int, *fields: Any, **named: Any) -> None:
        super().__init__()
        config = GatedConfig.given(width, *fields, **named)
        self.shape = (4, config.heads, config.head_width(width))
        self.project = nn.Linear(width, 4 * config.heads * config.head_width(width))
        self.bias = nn.Parameter(torch.randn(self.shape[1:]))
        self.out = nn.Linear(config.heads * config.head_width(width), width)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        y, _ = gated_linear(*self._parts(x), self.bias)
        return self.out(y.flatten(2))

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        _, heads, width = self.shape
        return {"state": StateEntry((heads, width, width), type="accumulator")}

    def forward_cached(
        self, x: Tensor, state: dict[str, Tensor], position: Tensor, lengths: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        y, after = gated_linear(*self._parts(x), self.bias, state=state["state"], lengths=lengths)
        return self.out(y.flatten(2)), {"state": after}

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.project(x).unflatten(-1, self.shape).unbind(2)


def model() -> nn.Module:
    """Return a small language model of our mixer and one of ours."""
    torch.manual_seed(0)
    layers = (LayerConfig(GatedConfig(heads=2)), LayerConfig(HSMConfig(shifts=(1, 3))))
    return build_model(ModelConfig(task="language_model", width=16, layers=layers, vocab_size=256)).eval()


@pytest.fixture(scope="module")
def folder() -> Path:
    """The decoding step in two precisions."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for precision in ("fp32", "bf16"):
            hsm_export.export(model(), output=folder / f"{precision}.onnx", precision=precision, decode=True)

    return made_once("decoding", make)


def test_the_state_goes_in_and_out_of_the_graph(folder: Path) -> None:
    graph = onnx.load(folder / "bf16.onnx").graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert types["past.0.state"] == types["present.0.state"] == onnx.TensorProto.FLOAT
    node = next(node for node in graph.node if node.op_type == "GatedLinear")
    assert node.name == "layers.0.mixer"
    assert node.input[5] == "past.0.state" and node.output[1] == "present.0.state"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_prompts_chunks_and_steps_agree_in_every_runtime(folder: Path, precision: str) -> None:
    runtimes = ["onnx-reference", "ort", "ort-fused", "cpp"]
    result = hsm_export.validate(folder / f"{precision}.onnx", model(), runtimes=runtimes, steps=8)
    assert result.passed, result.summary


def test_all_generate_the_same_text(folder: Path, tmp_path: Path) -> None:
    from hsm_models import save_checkpoint

    save_checkpoint(model(), tmp_path / "checkpoint")
    expected = hsm_export.generate(tmp_path / "checkpoint", "once upon", max_tokens=12)
    for runtime in ("ort", "ort-fused"):
        found = hsm_export.generate(folder / "fp32.onnx", "once upon", max_tokens=12, runtime=runtime)
        assert [item.text for item in found.completions] == [item.text for item in expected.completions], runtime
