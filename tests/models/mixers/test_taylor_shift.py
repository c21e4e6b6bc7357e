"""TaylorShift: definition, equal forms, output norms, masks and decoding."""

from __future__ import annotations

import pytest
import torch
from tests.models.decoding import decode, largest_difference, random_chunks, random_lengths
from torch import Tensor

from hsm_models import TaylorShiftConfig
from hsm_models.mixers import TaylorShift

WIDTH, HEADS, HEAD_DIM = 20, 3, 4


def make(generator: torch.Generator, **options: object) -> TaylorShift:
    mixer = TaylorShift(WIDTH, heads=HEADS, head_dim=HEAD_DIM, **options).double()  # type: ignore[arg-type]
    for name, parameter in mixer.named_parameters():
        offset = 1.5 if name == "temperature" else 0.0
        torch.nn.init.normal_(parameter, mean=offset, std=0.4, generator=generator)
    return mixer


def by_definition(mixer: TaylorShift, x: Tensor, causal: bool = False) -> Tensor:
    """The quadratic formula, one row of the batch and one head at a time."""
    rows = []
    for row in x:
        projected = row @ mixer.qkv.weight.T + mixer.qkv.bias
        heads = []
        for h in range(HEADS):
            q, k = (
                projected[:, (part * HEADS + h) * HEAD_DIM : (part * HEADS + h + 1) * HEAD_DIM] for part in range(2)
            )
            v = projected[:, 2 * HEADS * HEAD_DIM :].chunk(HEADS, dim=-1)[h]
            if mixer.temperature is not None:
                q = q / q.norm(dim=-1, keepdim=True) * mixer.temperature[0, h, 0, 0]
                k = k / k.norm(dim=-1, keepdim=True)
            t = q @ k.T
            weights = 1 + t + t**2 / 2
            weights = weights.tril() if causal else weights
            y = (weights / weights.sum(dim=-1, keepdim=True)) @ v
            heads.append(y * (len(row) / HEAD_DIM) ** 0.5 if mixer.output_norm else y)
        rows.append(torch.cat(heads, dim=-1) @ mixer.proj.weight.T + mixer.proj.bias)
    return torch.stack(rows)


@pytest.mark.parametrize("length", [1, 2, 20, 21, 22, 40])  # direct below d*d + d + 1 = 21, efficient above
@pytest.mark.parametrize("form", ["auto", "direct", "efficient"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("output_norm", [True, False])
def test_matches_the_quadratic_formula(
    length: int, form: str, normalize: bool, output_norm: bool, generator: torch.Generator
) -> None:
    mixer = make(generator, form=form, normalize=normalize, output_norm=output_norm)
    x = torch.randn(2, length, WIDTH, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), by_definition(mixer, x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("form", ["direct", "efficient"])
@pytest.mark.parametrize("output_norm", [True, False])
def test_masked_rows_are_the_rows_alone(form: str, output_norm: bool, generator: torch.Generator) -> None:
    mixer = make(generator, form=form, output_norm=output_norm)
    x = torch.randn(3, 9, WIDTH, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([9, 1, 4])
    y = mixer(x, lengths)
    for b, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(y[b, :n], by_definition(mixer, x[b : b + 1, :n])[0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("value_dim", [1, 7])
def test_values_may_be_wider_or_narrower_than_keys(value_dim: int, generator: torch.Generator) -> None:
    mixer = make(generator, value_dim=value_dim, output_norm=True)
    x = torch.randn(2, 9, WIDTH, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), by_definition(mixer, x), rtol=1e-11, atol=1e-12)


def test_values_as_wide_as_keys_leave_the_configuration_as_it_was() -> None:
    assert "value_dim" not in TaylorShiftConfig(heads=2).to_data()
    assert TaylorShiftConfig(heads=2, value_dim=3).to_data()["value_dim"] == 3


@pytest.mark.parametrize("value_dim", [None, 7])
@pytest.mark.parametrize("normalize", [True, False])
def test_causal_matches_the_masked_formula_and_decodes_to_the_same(
    normalize: bool, value_dim: int | None, generator: torch.Generator
) -> None:
    mixer = make(generator, causal=True, normalize=normalize, value_dim=value_dim)
    x = torch.randn(3, 13, WIDTH, generator=generator, dtype=torch.float64)
    full = mixer(x)
    torch.testing.assert_close(full, by_definition(mixer, x, causal=True), rtol=1e-10, atol=1e-11)
    chunks = random_chunks(random_lengths(3, 13, generator), generator)
    rows = decode(mixer.forward_cached, mixer.initial_state(3, 13), x, chunks)
    assert largest_difference(rows, full) <= 1e-10


def test_the_state_does_not_grow_with_the_capacity(generator: torch.Generator) -> None:
    mixer = make(generator, causal=True).half()
    state = mixer.initial_state(2, 10_000)
    assert state["state"].shape == (2, HEADS, 15, HEAD_DIM)
    assert state["norm"].shape == (2, HEADS, 15)
    assert state["state"].dtype == state["norm"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
def test_half_precision_stays_near_double(dtype: torch.dtype, causal: bool, generator: torch.Generator) -> None:
    mixer = make(generator, causal=causal)
    x = torch.randn(2, 30, WIDTH, generator=generator, dtype=torch.float64)
    exact = mixer(x)
    y = mixer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    error = float((y.double() - exact).detach().abs().max() / exact.detach().abs().max())
    assert error < 30 * torch.finfo(dtype).eps


def test_gradients_reach_every_parameter(generator: torch.Generator) -> None:
    for causal in (True, False):
        mixer = make(generator, causal=causal)
        mixer(torch.randn(2, 6, WIDTH, generator=generator, dtype=torch.float64)).square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in mixer.parameters())


def test_only_causal_attention_decodes() -> None:
    with pytest.raises(TypeError, match="not causal"):
        TaylorShift(WIDTH, heads=4).initial_state(1, 1)


def test_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="not a multiple of heads 3"):
        TaylorShift(WIDTH, heads=3)
    with pytest.raises(ValueError, match="output_norm"):
        TaylorShift(WIDTH, heads=4, causal=True, output_norm=True)
    with pytest.raises(ValueError, match="value_dim must be positive"):
        TaylorShift(WIDTH, heads=4, value_dim=0)
