"""RWKV-7's mixers: values that pass from layer to layer, decoding, half precision, gradients."""

from __future__ import annotations

import pytest
import torch
from tests.models.decoding import decode, largest_difference, random_chunks, random_lengths

from hsm_models import LayerConfig, ModelConfig, RWKV7ChannelConfig, RWKV7Config
from hsm_models.checkpoint import build_model
from hsm_models.errors import ConfigError
from hsm_models.mixers import RWKV7, Mixer
from hsm_models.mixers.rwkv7 import RWKV7Channel

WIDTH = 12


def make(generator: torch.Generator, kind: str) -> Mixer:
    mixer = (
        RWKV7Channel(WIDTH, hidden=20)
        if kind == "channel"
        else RWKV7(WIDTH, heads=3, head_dim=8, decay_rank=5, rate_rank=4, gate_rank=6)
    )
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return mixer.double()


@pytest.mark.parametrize("kind", ["time", "channel"])
def test_decoding_in_chunks_equals_whole_sequences(kind: str, generator: torch.Generator) -> None:
    mixer = make(generator, kind)
    x = torch.randn(3, 13, WIDTH, generator=generator, dtype=torch.float64)
    chunks = random_chunks(random_lengths(3, 13, generator), generator)
    rows = decode(mixer.forward_cached, mixer.initial_state(3, 13), x, chunks)
    assert largest_difference(rows, mixer(x)) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["time", "channel"])
def test_half_precision_stays_near_double(kind: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    mixer = make(generator, kind)
    x = torch.randn(2, 30, WIDTH, generator=generator, dtype=torch.float64)
    exact = mixer(x)
    y = mixer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert float((y.double() - exact).detach().abs().max() / exact.detach().abs().max()) < 30 * torch.finfo(dtype).eps


def test_gradients_reach_every_parameter(generator: torch.Generator) -> None:
    ranks = {"decay_rank": 3, "rate_rank": 3, "gate_rank": 3}
    layers = (
        LayerConfig(RWKV7Config(heads=3, **ranks)),
        LayerConfig(RWKV7ChannelConfig(20)),
        LayerConfig(RWKV7Config(heads=3, value_rank=2, **ranks)),
    )
    model = build_model(ModelConfig(task="language_model", width=WIDTH, vocab_size=11, layers=layers))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    model(torch.randint(11, (2, 6), generator=generator)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_values_of_an_earlier_layer_are_needed_where_they_are_mixed_in(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match=r"layers\[0\]\.mixer takes rwkv7\.values, which no earlier layer leaves"):
        ModelConfig(task="language_model", width=WIDTH, vocab_size=11, layers=(LayerConfig(RWKV7Config(value_rank=2)),))
    with pytest.raises(ValueError, match="needs `shared`"):
        RWKV7(WIDTH, heads=3, value_rank=2)(torch.randn(1, 2, WIDTH, generator=generator))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 5}, "not a multiple of heads"),
        ({"decay_rank": 0}, "decay_rank must be positive"),
        ({"value_rank": -1}, "value_rank must be positive"),
        ({"head_norm_eps": 0.0}, "head_norm_eps must lie between 0 and 1"),
    ],
)
def test_impossible_configurations_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RWKV7(WIDTH, **fields)
