"""Attention in PyTorch: against PyTorch's own, its gradients, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from hsm_operators.attention.torch_op import (
    attention,
    attention_cached,
    relative_attention,
    window_attention_cached,
)

pytestmark = pytest.mark.usefixtures("reference_maths")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_it_is_torchs_own(causal: bool, groups: int) -> None:
    q, k = torch.randn(2, 7, 4, 8), torch.randn(2, 7, groups, 8)
    v = torch.randn(2, 7, groups, 5)
    y = attention(q, k, v, torch.tensor([7, 7]), causal, scale=0.3)
    heads = (item.transpose(1, 2) for item in (q, k, v))
    own = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=causal, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(y, own.transpose(1, 2))


@pytest.mark.parametrize(("causal", "window"), [(True, 0), (True, 2), (False, 0)])
def test_gradients(causal: bool, window: int) -> None:
    q, k, v = (torch.randn(2, 4, heads, 3, dtype=torch.float64, requires_grad=True) for heads in (2, 1, 1))
    lengths = torch.tensor([4, 2])
    assert torch.autograd.gradcheck(lambda *x: attention(*x, lengths, causal, window, 0.5), (q, k, v))


@pytest.mark.parametrize(("causal", "window"), [(True, 0), (True, 2), (False, 0)])
def test_gradients_with_relative_positions(causal: bool, window: int) -> None:
    q, k, v = (torch.randn(2, 4, heads, 3, dtype=torch.float64, requires_grad=True) for heads in (2, 1, 1))
    keys = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([4, 2])
    given = q, k, v, keys
    assert torch.autograd.gradcheck(lambda q, k, v, r: relative_attention(q, k, v, lengths, r, causal, window), given)


def test_a_row_that_outgrows_its_cache_is_refused() -> None:
    x, cache, rows = torch.zeros(1, 3, 2, 4), torch.zeros(1, 5, 2, 4), torch.tensor([3])
    with pytest.raises(ValueError, match="holds 5 tokens, but a row reaches 6"):
        attention_cached(x, x, x, cache, cache, rows, torch.tensor([3]))
    y, _, _ = attention_cached(x, x, x, cache, cache, rows, torch.tensor([2]))  # padding needs no slots
    assert y.shape == x.shape


def test_what_does_not_fit_is_refused() -> None:
    x, rows = torch.zeros(1, 3, 3, 4), torch.tensor([3])
    with pytest.raises(ValueError, match="do not split into 2 groups"):
        attention(x, x[:, :, :2], x[:, :, :2], rows)
    with pytest.raises(ValueError, match=r"shape \(at least 5, 3, 4\), got torch.float32 \(3, 3, 4\)"):
        relative_attention(x, x, x, rows, x[0], causal=False)
    with pytest.raises(ValueError, match="the window 4 must be from 1"):
        window_attention_cached(x, x, x, x, x, rows, rows, window=4)
