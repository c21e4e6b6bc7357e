"""Token shift and shift mix: any shapes, rings in any pieces, room to roll back, refused arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_operators.shift_mix import oracle
from hsm_operators.shift_mix.torch_op import shift_mix, shift_mix_cached, token_shift, token_shift_cached

pytestmark = pytest.mark.usefixtures("reference_maths")

SHIFTS = st.lists(st.integers(-12, 12), min_size=1, max_size=4)
PAST_SHIFTS = st.lists(st.integers(0, 12), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(SHIFTS, st.integers(1, 3), st.integers(1, 14), st.integers(1, 3), st.integers(0, 2**31))
def test_any_shape_and_shifts(shifts: list[int], batch: int, length: int, group: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, length, group * len(shifts)))
    alpha, beta = rng.standard_normal((2, x.shape[2]))
    np.testing.assert_array_equal(token_shift(torch.from_numpy(x), shifts), oracle.token_shift(x, shifts))
    mixed = shift_mix(*map(torch.from_numpy, (x, alpha, beta)), shifts)
    np.testing.assert_allclose(mixed, oracle.shift_mix(x, alpha, beta, shifts), rtol=1e-14, atol=1e-14)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(PAST_SHIFTS, st.integers(0, 5), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 2**31))
def test_any_pieces_give_the_whole(shifts: list[int], room: int, pieces: list[int], seed: int) -> None:
    """Rows advance by random numbers of tokens, 0 among them, through a ring that starts full of NaN."""
    generator = torch.Generator().manual_seed(seed)
    rows, width, total = 3, 2 * len(shifts), sum(pieces)
    x = torch.randn((rows, total, width), generator=generator, dtype=torch.float64)
    alpha, beta = torch.randn((2, width), generator=generator, dtype=torch.float64)
    shifted, mixed = token_shift(x, shifts), shift_mix(x, alpha, beta, shifts)
    ring = torch.full((rows, max(1, *shifts) + room, width), torch.nan, dtype=torch.float64)
    other = ring.clone()
    position = torch.zeros(rows, dtype=torch.int64)
    for piece in pieces:
        lengths = torch.randint(0, piece + 1, (rows,), generator=generator)
        chunk = torch.full((rows, piece, width), torch.nan, dtype=torch.float64)
        for row, (start, count) in enumerate(zip(position, lengths, strict=True)):
            chunk[row, :count] = x[row, start : start + count]
        before = ring
        y, ring = token_shift_cached(chunk, ring, position, lengths, shifts)
        z, other = shift_mix_cached(chunk, alpha, beta, other, position, lengths, shifts)
        for row, (start, count) in enumerate(zip(position, lengths, strict=True)):
            torch.testing.assert_close(y[row, :count], shifted[row, start : start + count], rtol=0, atol=0)
            torch.testing.assert_close(z[row, :count], mixed[row, start : start + count])
            if count == 0:
                torch.testing.assert_close(ring[row], before[row], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(ring, other, rtol=0, atol=0, equal_nan=True)
        position = position + lengths


@pytest.mark.parametrize("rejected", [1, 3])
def test_speculative_tokens_can_be_rolled_back(rejected: int, generator: torch.Generator) -> None:
    """A ring with room for r tokens more than the shift forgets them when the position is set back."""
    shift, accepted = 4, 6
    x = torch.randn((1, 20, 2), generator=generator, dtype=torch.float64)
    lengths = torch.tensor([accepted + rejected])
    guess = torch.cat([x[:, :accepted], torch.randn((1, rejected, 2), generator=generator, dtype=torch.float64)], 1)
    ring = torch.zeros((1, shift + rejected, 2), dtype=torch.float64)
    _, ring = token_shift_cached(guess, ring, torch.tensor([0]), lengths, [shift])
    rest = x[:, accepted:]
    y, _ = token_shift_cached(rest, ring, torch.tensor([accepted]), torch.tensor([rest.shape[1]]), [shift])
    torch.testing.assert_close(y, token_shift(x, [shift])[:, accepted:], rtol=0, atol=0)


def test_strided_input(generator: torch.Generator) -> None:
    x = torch.randn((4, 9, 2), generator=generator).transpose(1, 2)
    torch.testing.assert_close(token_shift(x, [1]), token_shift(x.contiguous(), [1]), rtol=0, atol=0)


X, RING, ROW = torch.zeros(2, 5, 6), torch.zeros(2, 4, 6), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, []), "shifts"),
        ((X, [1, 2, 3, 4]), "equal groups"),
        ((X[0], [1]), "x must be"),
    ],
)
def test_refuses(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_shift(*arguments)
    with pytest.raises(ValueError, match=message):
        shift_mix(arguments[0], torch.ones(6), torch.ones(6), arguments[1])


def test_refuses_weights_of_another_shape() -> None:
    with pytest.raises(ValueError, match="alpha"):
        shift_mix(X, torch.ones(5), torch.ones(6), [1])
    with pytest.raises(ValueError, match="beta"):
        shift_mix(X, torch.ones(6), torch.ones(1, 6), [1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shifts": [5]}, "ring has 4 rows"),
        ({"shifts": [-1, 2]}, "shifts must be at least 0"),
        ({"ring": RING[:, :0], "shifts": [0]}, "ring has no rows"),
        ({"ring": RING[:1]}, "ring must be"),
        ({"ring": RING.half()}, "ring must be"),
        ({"position": ROW.int()}, "position"),
        ({"position": ROW[:1]}, "position"),
        ({"lengths": ROW.float()}, "lengths"),
        ({"lengths": ROW[:, None]}, "lengths"),
    ],
)
def test_refuses_cache(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"x": X, "ring": RING, "position": ROW, "lengths": ROW, "shifts": [4]}
    token_shift_cached(**good)
    with pytest.raises(ValueError, match=message):
        token_shift_cached(**good | changes)
    with pytest.raises(ValueError, match=message):
        shift_mix_cached(**good | changes, alpha=torch.ones(6), beta=torch.ones(6))
