"""Products with chosen experts: any shapes, ties, saturated gates, forced choices, refused arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_operators.expert_matmul import oracle
from hsm_operators.expert_matmul.torch_op import expert_matmul, expert_matmul_sum
from hsm_operators.routing import force_routing, record_routing

pytestmark = pytest.mark.usefixtures("reference_maths")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3)),
    st.integers(1, 5).flatmap(lambda experts: st.tuples(st.just(experts), st.integers(1, experts))),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_shape(
    rows: tuple[int, int, int], experts: tuple[int, int], widths: tuple[int, int], ties: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    (batch, length, heads), (count, k), (inner, outer) = rows, experts, widths
    logits = rng.standard_normal((batch, length, heads, count))
    logits = logits.round() if ties else logits
    weight = rng.standard_normal((heads, count, inner, outer))
    for operator, definition, shape in (
        (expert_matmul, oracle.expert_matmul, (batch, length, inner)),
        (expert_matmul_sum, oracle.expert_matmul_sum, (batch, length, heads, inner)),
    ):
        x = rng.standard_normal(shape)
        y = operator(*map(torch.from_numpy, (x, logits, weight)), k)
        np.testing.assert_allclose(y, definition(x, logits, weight, k), rtol=1e-12, atol=1e-12)


def test_ties_and_saturated_gates_go_by_logit_then_by_index() -> None:
    """The sigmoids of 40 and 60 are both 1 in float32; of equal logits the lower index wins."""
    weight = torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1, 1)
    logits = torch.tensor([[40.0, 60.0, 40.0, 60.0], [0.0, 0.0, 0.0, 0.0], [-0.0, 0.0, -90.0, 5.0]]).reshape(1, 3, 1, 4)
    x = torch.ones(1, 3, 1)
    assert expert_matmul(x, logits, weight, 1).flatten().tolist() == pytest.approx([2, 0.5, 8 * 0.99330715])
    assert expert_matmul(x, logits, weight, 2).flatten().tolist() == pytest.approx([10, 1.5, 0.5 + 8 * 0.99330715])
    assert expert_matmul(x, logits, weight, 3).flatten().tolist() == pytest.approx([11, 3.5, 1.5 + 8 * 0.99330715])


def test_all_experts_are_the_dense_mixture(generator: torch.Generator) -> None:
    x, logits = torch.randn(2, 4, 5, generator=generator), torch.randn(2, 4, 3, 6, generator=generator)
    weight = torch.randn(3, 6, 5, 2, generator=generator)
    dense = torch.einsum("btd,bthe,hedf->bthf", x, logits.sigmoid(), weight)
    torch.testing.assert_close(expert_matmul(x, logits, weight, 6), dense)


def test_experts_that_were_not_chosen_get_no_gradient(generator: torch.Generator) -> None:
    weight = torch.randn(1, 3, 2, 2, generator=generator, requires_grad=True)
    logits = torch.tensor([1.0, 3.0, 2.0]).expand(1, 4, 1, 3).clone().requires_grad_()
    expert_matmul(torch.randn(1, 4, 2, generator=generator), logits, weight, 1).square().sum().backward()
    assert weight.grad is not None and logits.grad is not None
    assert (weight.grad != 0).flatten(2).any(2).tolist() == [[False, True, False]]
    assert (logits.grad != 0).flatten(0, 2).any(0).tolist() == [False, True, False]


def test_routing_is_recorded_and_forced_in_call_order(generator: torch.Generator) -> None:
    x = torch.randn(2, 4, 5, generator=generator)
    weight, back = torch.randn(3, 6, 5, 2, generator=generator), torch.randn(3, 6, 2, 5, generator=generator)
    logits = torch.randn(2, 2, 4, 3, 6, generator=generator)
    with record_routing() as calls:
        expert_matmul_sum(expert_matmul(x, logits[0], weight, 2), logits[1], back, 3)
    assert [torch.equal(call, own) for call, own in zip(calls, logits, strict=True)] == [True, True]
    masks = [
        torch.zeros(2, 4, 3, 6, dtype=torch.bool).scatter(-1, own.argsort(-1)[..., :k], True)
        for own, k in zip(logits, (2, 3), strict=True)
    ]
    with force_routing(masks):
        hidden = expert_matmul(x, logits[0], weight, 2)
        y = expert_matmul_sum(hidden, logits[1], back, 3)
    gates = [own.sigmoid() * mask for own, mask in zip(logits, masks, strict=True)]
    torch.testing.assert_close(hidden, torch.einsum("btd,bthe,hedf->bthf", x, gates[0], weight))
    torch.testing.assert_close(y, torch.einsum("bthf,bthe,hefd->btd", hidden, gates[1], back))


def test_forced_routing_refuses_masks_that_do_not_fit() -> None:
    call = torch.ones(1, 2, 3), torch.ones(1, 2, 1, 4), torch.ones(1, 4, 3, 2), 2
    with force_routing([]), pytest.raises(ValueError, match="no mask is left"):
        expert_matmul(*call)
    with force_routing([torch.ones(1, 2, 1, 3, dtype=torch.bool)]), pytest.raises(ValueError, match="next mask"):
        expert_matmul(*call)
    with force_routing([torch.ones(1, 2, 1, 4, dtype=torch.bool)]), pytest.raises(ValueError, match="exactly 2"):
        expert_matmul(*call)


X, HEADS_X, LOGITS, WEIGHT = torch.ones(2, 3, 4), torch.ones(2, 3, 5, 4), torch.ones(2, 3, 5, 6), torch.ones(5, 6, 4, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "between 1 and the number of experts"),
        ({"k": 7}, "between 1 and the number of experts"),
        ({"x": X[0]}, "dimensions"),
        ({"logits": LOGITS.double()}, "logits must be"),
        ({"logits": LOGITS[0]}, "logits must be"),
        ({"logits": LOGITS[:, :2]}, "logits"),
        ({"weight": WEIGHT.half()}, "weight must be"),
        ({"weight": WEIGHT[0]}, "weight must have"),
        ({"weight": WEIGHT[:4]}, "heads"),
        ({"weight": WEIGHT[:, :, :3]}, "does not fit"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    rest = {"logits": LOGITS, "weight": WEIGHT, "k": 6}
    for operator, x in ((expert_matmul, X), (expert_matmul_sum, HEADS_X)):
        assert operator(**{"x": x, **rest}) is not None
        with pytest.raises(ValueError, match=message):
            operator(**{"x": x, **rest, **changes})


def test_refuses_another_number_of_heads() -> None:
    with pytest.raises(ValueError, match="5 heads"):
        expert_matmul_sum(HEADS_X[:, :, :4], LOGITS, WEIGHT, 1)
