"""Masks of routed operators in single steps: with an axis of heads (SwitchHead) and without one (sigma-MoE)."""

from __future__ import annotations

import numpy as np
import pytest

from hsm_export.validation.stepping import _rows


@pytest.mark.parametrize("tail", [(4,), (2, 4)], ids=["sigma-MoE", "SwitchHead"])
def test_a_call_gets_the_rows_of_its_tokens(tail: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random((2, 7, *tail)) < 0.5
    source = np.array([[3, 4], [0, 6]])
    rows = _rows(mask, source)
    assert rows.shape == (2, 2, *tail)
    assert all((rows[b, t] == mask[b, source[b, t]]).all() for b in range(2) for t in range(2))
