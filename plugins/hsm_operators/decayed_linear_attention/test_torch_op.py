"""DecayedLinearAttention and DecayedDeltaRule in PyTorch: what the matrix of all operators does not ask."""

from __future__ import annotations

import pytest
import torch

from hsm_operators.decayed_linear_attention.torch_op import decayed_delta_rule, decayed_linear_attention

pytestmark = pytest.mark.usefixtures("reference_maths")


@pytest.mark.parametrize("delta", [False, True])
def test_no_tokens_leave_the_state_as_it_is(delta: bool) -> None:
    empty, state = torch.zeros(2, 0, 3, 4), torch.randn(2, 3, 4, 5)
    keys, v, lengths = (empty, empty, empty, empty), torch.zeros(2, 0, 3, 5), torch.zeros(2, dtype=torch.int64)
    if delta:
        y, after = decayed_delta_rule(empty, empty, v, *keys[:3], state, lengths)
    else:
        y, after = decayed_linear_attention(empty, empty, v, empty, state, lengths)
    assert y.shape == (2, 0, 3, 5) and torch.equal(after, state)
