"""Every mixer, model and decoding step traces with torch.export with dynamic batch and length.

Traced at one shape, each must be right at all others: no size baked in, length 1 and batch 1 not special.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.examples import CLASSIFIERS, LANGUAGE_MODELS, WIDTH
from torch import Tensor, nn
from torch.export import Dim

from hsm_models.checkpoint import build_model
from hsm_models.feed_forward import SigmaMoE
from hsm_models.mixers import HSM, SoftmaxAttention, SwitchHead, TaylorShift

SHAPES = [(1, 1), (3, 1), (1, 7), (2, 30)]

MIXERS: dict[str, nn.Module] = {
    "hsm vector": HSM(WIDTH, shifts=(1, 2), padding="learned"),
    "hsm scalar": HSM(WIDTH, shifts=(40,), mixing="scalar"),
    "hsm gated2": HSM(WIDTH, shifts=(4,), mixing="gated2", padding="learned"),
    "hsm user": HSM(WIDTH, mixing=nn.Bilinear(WIDTH, WIDTH, WIDTH)),
    "taylor": TaylorShift(WIDTH, output_norm=True),
    "taylor plain": TaylorShift(WIDTH, normalize=False),
    "taylor causal": TaylorShift(WIDTH, causal=True),
    "switch_head rope": SwitchHead(WIDTH),
    "switch_head xl": SwitchHead(WIDTH, positions="xl"),
    "switch_head one": SwitchHead(WIDTH, experts=1, active=1),
    "switch_head same": SwitchHead(WIDTH, positions="none", same_selection=True),
    "softmax": SoftmaxAttention(WIDTH),
    "moe": SigmaMoE(WIDTH, 4, 2, 8),
}


def trace(module: nn.Module, inputs: tuple[Any, ...], dynamic: tuple[Any, ...]) -> nn.Module:
    return torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic).module()


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_mixers(name: str, generator: torch.Generator) -> None:
    mixer = MIXERS[name]
    traced = trace(mixer, (torch.randn(2, 5, WIDTH, generator=generator),), ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC},))
    for batch, length in SHAPES:
        x = torch.randn(batch, length, WIDTH, generator=generator)
        torch.testing.assert_close(traced(x), mixer(x))


@pytest.mark.parametrize("name", sorted(LANGUAGE_MODELS))
def test_language_models(name: str, generator: torch.Generator) -> None:
    model = build_model(LANGUAGE_MODELS[name])
    traced = trace(model, (torch.zeros(2, 5, dtype=torch.int64),), ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC},))
    for batch, length in SHAPES:
        tokens = torch.randint(0, 11, (batch, min(length, 16)), generator=generator)
        torch.testing.assert_close(traced(tokens), model(tokens))


@pytest.mark.parametrize("name", sorted(set(CLASSIFIERS) - {"image"}))
def test_classifiers(name: str, generator: torch.Generator) -> None:
    model = build_model(CLASSIFIERS[name])
    lengths = (torch.tensor([5, 3]),) if model.config.masked else ()
    dynamic = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, *({0: Dim.DYNAMIC} for _ in lengths))
    traced = trace(model, (torch.zeros(2, 5, dtype=torch.int64), *lengths), dynamic)
    for batch, length in SHAPES:
        tokens = torch.randint(0, 9, (batch, length), generator=generator)
        inputs = (tokens, torch.randint(1, length + 1, (batch,), generator=generator))[: len(lengths) + 1]
        torch.testing.assert_close(traced(*inputs), model(*inputs))


def test_image_classifier(generator: torch.Generator) -> None:
    model = build_model(CLASSIFIERS["image"])
    traced = trace(model, (torch.zeros(2, 3, 12, 12),), ({0: Dim.DYNAMIC},))
    for batch in (1, 4):
        image = torch.randn(batch, 3, 12, 12, generator=generator)
        torch.testing.assert_close(traced(image), model(image))


class Step(nn.Module):
    """The decoding step as a module, for tracing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, state: dict[str, Tensor], position: Tensor, lengths: Tensor) -> Any:
        return self.model.forward_cached(tokens, state, position, lengths)


@pytest.mark.parametrize("name", sorted(LANGUAGE_MODELS))
def test_decoding_steps(name: str, generator: torch.Generator) -> None:
    model = build_model(LANGUAGE_MODELS[name])

    def arguments(batch: int, length: int) -> tuple[Any, ...]:
        tokens = torch.randint(0, 11, (batch, length), generator=generator)
        return tokens, model.initial_state(batch, 9), torch.full((batch,), 1), torch.full((batch,), length)

    example = arguments(2, 3)
    state = {key: {0: Dim.DYNAMIC} for key in example[1]}
    dynamic = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, state, {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC})
    traced = trace(Step(model), example, dynamic)
    for batch, length in ((1, 1), (3, 1), (2, 6)):
        inputs = arguments(batch, length)
        torch.testing.assert_close(traced(*inputs), model.forward_cached(*inputs))
