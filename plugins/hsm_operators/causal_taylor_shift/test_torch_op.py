"""CausalTaylorShift in PyTorch: the same in any pieces, refused arguments, the gradient that was written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hsm_operators.causal_taylor_shift.gradient import is_short
from hsm_operators.causal_taylor_shift.torch_op import _causal_taylor_shift, causal_taylor_shift
from hsm_operators.causal_taylor_shift.whole import is_better_whole, whole_causal_taylor_shift
from hsm_operators.taylor_shift.torch_op import feature_count

pytestmark = pytest.mark.usefixtures("reference_maths")


def _attention(generator: torch.Generator, *shape: int, value_width: int) -> tuple[Tensor, ...]:
    """Return q, k (B,T,H,d), v (B,T,H,e) and temperatures (H,) away from 1, all in float64."""
    shapes = (shape, shape, (*shape[:3], value_width))
    q, k, v = (torch.randn(own, generator=generator, dtype=torch.float64) for own in shapes)
    return q, k, v, 0.5 + 2 * torch.rand(shape[2], generator=generator, dtype=torch.float64)


def _causal_by_definition(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, normalize: bool) -> Tensor:
    """The direct form under a causal mask."""
    if normalize:
        q = q / q.norm(dim=-1, keepdim=True) * temperature[:, None]
        k = k / k.norm(dim=-1, keepdim=True)
    t = torch.einsum("bthd,bshd->bhts", q, k)
    weights = (1 + t + t**2 / 2).tril()
    return torch.einsum("bhts,bshd->bthd", weights / weights.sum(-1, keepdim=True), v)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("length", [1, 127, 128, 129, 300])
def test_recurrent_chunkwise_and_masked_direct_are_equal(
    length: int, normalize: bool, generator: torch.Generator
) -> None:
    arguments = _attention(generator, 2, length, 2, 3, value_width=5)
    whole = _causal_by_definition(*arguments, normalize)
    start = _no_past(2, 2, 3, 5)
    chunkwise, state, norm = causal_taylor_shift(*arguments, *start, torch.tensor([length] * 2), normalize)
    torch.testing.assert_close(chunkwise, whole, rtol=1e-11, atol=1e-12)
    steps, past = [], start
    for t in range(length):
        step = (*(a[:, t : t + 1] for a in arguments[:3]), arguments[3])
        y, *past = causal_taylor_shift(*step, *past, torch.tensor([1, 1]), normalize)
        steps.append(y)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(past, [state, norm], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("length", [1, 7, 20, 32])  # of at most 4·5 tokens PyTorch differentiates
def test_whole_sequences_in_training_are_the_operator(length: int, normalize: bool, generator: torch.Generator) -> None:
    arguments = [tensor.requires_grad_() for tensor in _attention(generator, 2, length, 3, 5, value_width=4)]
    assert is_better_whole(arguments[0])
    start, lengths = _no_past(2, 3, 5, 4), torch.tensor([length] * 2)
    whole = whole_causal_taylor_shift(*arguments, normalize)
    operator = causal_taylor_shift(*arguments, *start, lengths, normalize)[0]
    torch.testing.assert_close(whole, operator, rtol=1e-11, atol=1e-12)
    weights = torch.randn(whole.shape, generator=generator, dtype=torch.float64)
    asked = arguments if normalize else arguments[:3]
    found = (torch.autograd.grad((y * weights).sum(), asked, allow_unused=True) for y in (whole, operator))
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-12)


def test_only_training_leaves_the_operator() -> None:
    q = torch.zeros(1, 40, 2, 5)
    assert not is_better_whole(q)
    assert is_better_whole(q.requires_grad_())
    assert not is_better_whole(torch.zeros(1, 41, 2, 5, requires_grad=True))
    with torch.no_grad():
        assert not is_better_whole(q)


def _no_past(batch: int, heads: int, width: int, value_width: int) -> tuple[Tensor, Tensor]:
    rows = feature_count(width)
    return torch.zeros((batch, heads, rows, value_width)).double(), torch.zeros((batch, heads, rows)).double()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 9) | st.just(140), min_size=1, max_size=5),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
def test_any_pieces_give_the_whole(pieces: list[int], width: int, value_width: int, seed: int) -> None:
    """Rows advance by random numbers of tokens, 0 among them; padding is NaN."""
    generator = torch.Generator().manual_seed(seed)
    rows = 3
    *attention, temperature = _attention(generator, rows, sum(pieces), 2, width, value_width=value_width)
    whole = _causal_by_definition(*attention, temperature, True)
    state, norm = _no_past(rows, 2, width, value_width)
    position = [0] * rows
    for piece in pieces:
        lengths = torch.randint(0, piece + 1, (rows,), generator=generator)
        chunk = [torch.full((rows, piece, *part.shape[2:]), torch.nan, dtype=torch.float64) for part in attention]
        for part, source in zip(chunk, attention, strict=True):
            for row, count in enumerate(lengths):
                part[row, :count] = source[row, position[row] : position[row] + count]
        before = state, norm
        y, state, norm = causal_taylor_shift(*chunk, temperature, state, norm, lengths, True)
        for row, count in enumerate(lengths.tolist()):
            torch.testing.assert_close(y[row, :count], whole[row, position[row] : position[row] + count])
            if count == 0:
                assert torch.equal(state[row], before[0][row]) and torch.equal(norm[row], before[1][row])
            position[row] += count


Q, TAU = torch.zeros(2, 5, 3, 4), torch.ones(3)
STATE, NORM, ROW = torch.zeros(2, 3, 15, 4), torch.zeros(2, 3, 15), torch.ones(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": Q[0]}, "q must be"),
        ({"k": Q[:, :4]}, "k must be"),
        ({"v": Q.half()}, "v must be"),
        ({"v": Q[:, :, :2]}, "v must be"),
        ({"v": Q[..., :0]}, "v must be"),
        ({"temperature": torch.ones(4)}, "temperature"),
        ({"lengths": ROW.int()}, "lengths"),
        ({"lengths": ROW[:1]}, "lengths"),
        ({"state": STATE[:, :, :14]}, "state"),
        ({"state": STATE.half()}, "state"),
        ({"state": STATE[..., :3]}, "state"),
        ({"norm": NORM.double()}, "norm"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    good = {"q": Q, "k": Q, "v": Q, "temperature": TAU, "state": STATE, "norm": NORM, "lengths": ROW}
    causal_taylor_shift(**good)
    with pytest.raises(ValueError, match=message):
        causal_taylor_shift(**good | changes)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize(("length", "width"), [(1, 3), (6, 4), (131, 16), (270, 15)])
def test_the_direct_gradient_is_that_of_the_reference_maths(
    length: int, width: int, started: bool, normalize: bool, generator: torch.Generator
) -> None:
    """Blocks of queries, unequal rows, one of them empty, values of another width, and what came before."""
    found = _causal_call(generator, length, width)
    found |= {"normalize": normalize, "lengths": torch.tensor([length, (length + 1) // 2, 0 if started else 1])}
    if started:
        _, found["state"], found["norm"] = causal_taylor_shift(**_causal_call(generator, 3, width))
    assert is_short(found["q"])
    leaves = [found[key].requires_grad_() for key in ("q", "k", "v", "temperature")]
    y, state_out, _ = _causal_taylor_shift(*found.values())
    dy = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    written = torch.autograd.grad(y, leaves, dy, retain_graph=True)
    # A gradient of the state, zero though it is, has the reference run once more.
    again = torch.autograd.grad((y, state_out), leaves, (dy, torch.zeros_like(state_out)), allow_unused=True)
    for left, right in zip(written, again, strict=True):
        torch.testing.assert_close(left, torch.zeros_like(left) if right is None else right, rtol=1e-10, atol=1e-12)


def _causal_call(generator: torch.Generator, length: int, width: int) -> dict[str, Any]:
    """Return a call from nothing in float64."""

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    features = feature_count(width)
    return {
        **{part: random(3, length, 2, width) for part in "qk"},
        "v": random(3, length, 2, width + 2),
        "temperature": random(2),
        "state": torch.zeros(3, 2, features, width + 2, dtype=torch.float64),
        "norm": torch.zeros(3, 2, features, dtype=torch.float64),
        "lengths": torch.full((3,), length),
        "normalize": True,
    }
