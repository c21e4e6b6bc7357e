"""Gated short convolutions: decoding, half precision, gradients."""

from __future__ import annotations

import pytest
import torch
from tests.models.decoding import decode, largest_difference, random_chunks, random_lengths

from hsm_models.errors import ConfigError
from hsm_models.mixers import GatedConvolution

WIDTH = 12


def make(generator: torch.Generator, **fields: object) -> GatedConvolution:
    mixer = GatedConvolution(WIDTH, **fields)  # type: ignore[arg-type]
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return mixer.double()


@pytest.mark.parametrize("kernel", [2, 3, 7])
def test_it_is_a_convolution_and_decodes_to_the_same(kernel: int, generator: torch.Generator) -> None:
    mixer = make(generator, kernel=kernel, channels=10, convolution_bias=True)
    x = torch.randn(3, 13, WIDTH, generator=generator, dtype=torch.float64)
    u, gate = mixer.input(x).chunk(2, dim=-1)
    padded = torch.nn.functional.pad(u.transpose(1, 2), (kernel - 1, 0))
    y = torch.conv1d(padded, mixer.taps.unsqueeze(1), mixer.taps_bias, groups=10).transpose(1, 2)
    full = mixer(x)
    torch.testing.assert_close(full, mixer.output(torch.nn.functional.silu(y) * gate))
    chunks = random_chunks(random_lengths(3, 13, generator), generator)
    rows = decode(mixer.forward_cached, mixer.initial_state(3, 13), x, chunks)
    assert largest_difference(rows, full) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_double(dtype: torch.dtype, generator: torch.Generator) -> None:
    mixer = make(generator)
    x = torch.randn(2, 30, WIDTH, generator=generator, dtype=torch.float64)
    exact = mixer(x)
    y = mixer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert float((y.double() - exact).detach().abs().max() / exact.detach().abs().max()) < 30 * torch.finfo(dtype).eps


def test_gradients_reach_every_parameter(generator: torch.Generator) -> None:
    mixer = make(generator, convolution_bias=True)
    mixer(torch.randn(2, 6, WIDTH, generator=generator, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in mixer.parameters())


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ConfigError, match="kernel must be at least 2"):
        GatedConvolution(WIDTH, kernel=1)
    with pytest.raises(ConfigError, match="channels must be positive"):
        GatedConvolution(WIDTH, channels=0)
