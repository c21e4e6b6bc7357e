"""The gradient of the causal operator in Triton, run by Triton's interpreter: against the maths in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hsm_operators.causal_taylor_shift.gradient import direct_gradient
from hsm_operators.causal_taylor_shift.torch_op import _fused_takes, causal_taylor_shift
from hsm_operators.fused_gradient import has_triton
from hsm_operators.taylor_shift import fused
from hsm_operators.taylor_shift.torch_op import feature_count

pytestmark = pytest.mark.skipif(not has_triton(), reason="Triton is not installed: pip install 'hsm-export[triton]'")
BATCH, HEADS = 3, 1


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_right_numbers(dtype: torch.dtype, started: bool, generator: torch.Generator) -> None:
    """Rows of unequal lengths, one of them empty, and a past that some rows have."""
    length, width, value_width = (40 if dtype == torch.float32 else 70), 6, 5  # two blocks
    q, k, v, dy = (_draw(generator, dtype, length, w) for w in (width, width, value_width, value_width))
    temperature = (0.5 + torch.rand(HEADS, generator=generator)).to(dtype)
    lengths = torch.tensor([length, 19, 0])
    state, norm = _past(generator, width, value_width, started)
    dy = dy * (torch.arange(length) < lengths[:, None])[:, :, None, None]
    right = direct_gradient(
        *(x.double() for x in (dy, q, k, v, temperature, state, norm)), lengths=lengths, normalize=True
    )
    result = fused.gradient(dy, q, k, v, temperature, lengths, True, past=(state, norm))
    unit = 2e-3 if dtype == torch.float16 else 4e-6
    for index, expected in enumerate(right):
        assert (result[index] - expected).abs().max() <= unit * expected.abs().max().clamp(min=1), index


def test_pytorch_calls_it(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    compute = fused.gradient
    monkeypatch.setattr(fused, "gradient", lambda *a, **k: (made.append(1), compute(*a, **k))[1])
    q, k, v, dy = (_draw(generator, torch.float32, 20, 4) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v, torch.ones(HEADS))]
    past = _past(generator, 4, 4, False)
    lengths = torch.full((BATCH,), 20)
    y, state, _ = causal_taylor_shift(*leaves, *past, lengths)
    grads = torch.autograd.grad(y, leaves, dy, retain_graph=True)
    assert made == [1]
    # A gradient of the state has the reference run once more.
    again = torch.autograd.grad((y, state), leaves, (dy, torch.zeros_like(state)))
    assert made == [1]
    for left, right in zip(grads, again, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_long_sequences_of_float32_are_the_reference_s() -> None:
    inputs = [torch.empty(1, 100, 1, 4), *[None] * 6, True]
    inputs[1] = inputs[2] = inputs[0]
    assert not _fused_takes([0], inputs)
    half = [x.bfloat16() if isinstance(x, Tensor) else x for x in inputs]
    assert _fused_takes([0], half) and not _fused_takes([4], half)


def _draw(generator: torch.Generator, dtype: torch.dtype, length: int, width: int) -> Tensor:
    return torch.randn((BATCH, length, HEADS, width), generator=generator).to(dtype)


def _past(generator: torch.Generator, width: int, value_width: int, started: bool) -> tuple[Tensor, Tensor]:
    rows = feature_count(width)
    state, norm = torch.zeros(BATCH, HEADS, rows, value_width), torch.zeros(BATCH, HEADS, rows)
    if not started:
        return state, norm
    k, v = _draw(generator, torch.float32, 3, width), _draw(generator, torch.float32, 3, value_width)
    _, state, norm = causal_taylor_shift(k, k, v, torch.ones(HEADS), state, norm, torch.tensor([3, 0, 2]))
    return state, norm
