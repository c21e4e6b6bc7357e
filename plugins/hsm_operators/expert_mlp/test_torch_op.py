"""A mixture of experts: any shapes, activations, ties, forced choices, refused arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_operators.expert_mlp import oracle
from hsm_operators.expert_mlp.torch_op import expert_mlp
from hsm_operators.routing import force_routing, record_routing

pytestmark = pytest.mark.usefixtures("reference_maths")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 6)),
    st.integers(1, 70).flatmap(lambda experts: st.tuples(st.just(experts), st.integers(1, experts))),
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_shape(
    rows: tuple[int, int],
    experts: tuple[int, int],
    widths: tuple[int, int, int],
    activation: int,
    ties: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    (count, k), (width, hidden, outputs) = experts, widths
    x, logits = rng.standard_normal((*rows, width)), rng.standard_normal((*rows, count))
    logits = logits.round() if ties else logits
    up, down = rng.standard_normal((count, width, hidden)), rng.standard_normal((count, hidden, outputs))
    y = expert_mlp(*map(torch.from_numpy, (x, logits, up, down)), k, activation)
    np.testing.assert_allclose(y, oracle.expert_mlp(x, logits, up, down, k, activation), rtol=1e-12, atol=1e-12)


def test_all_experts_are_the_dense_mixture(generator: torch.Generator) -> None:
    x, logits = torch.randn(2, 4, 5, generator=generator), torch.randn(2, 4, 6, generator=generator)
    up, down = torch.randn(6, 5, 3, generator=generator), torch.randn(6, 3, 7, generator=generator)
    for activation, function in enumerate((torch.relu, torch.nn.GELU(), torch.nn.GELU("tanh"))):
        hidden = function(torch.einsum("btd,edw->btew", x, up))
        dense = torch.einsum("bte,btew,ewo->bto", logits.sigmoid(), hidden, down)
        torch.testing.assert_close(expert_mlp(x, logits, up, down, 6, activation), dense)


def test_ties_go_to_the_lower_index() -> None:
    up, down = torch.ones(4, 1, 1), torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(4, 1, 1)
    logits = torch.tensor([[40.0, 60.0, 40.0, 60.0], [0.0, 0.0, 0.0, 0.0]]).reshape(1, 2, 4)
    assert expert_mlp(torch.ones(1, 2, 1), logits, up, down, 3, 0).flatten().tolist() == pytest.approx([11, 3.5])


def test_experts_that_were_not_chosen_get_no_gradient(generator: torch.Generator) -> None:
    up = torch.randn(3, 2, 4, generator=generator, requires_grad=True)
    down = torch.randn(3, 4, 2, generator=generator, requires_grad=True)
    logits = torch.tensor([1.0, 3.0, 2.0]).expand(1, 4, 3).clone().requires_grad_()
    expert_mlp(torch.randn(1, 4, 2, generator=generator), logits, up, down, 1, 1).square().sum().backward()
    for leaf in (up, down):
        assert leaf.grad is not None
        assert (leaf.grad != 0).flatten(1).any(1).tolist() == [False, True, False]
    assert logits.grad is not None
    assert (logits.grad != 0).flatten(0, 1).any(0).tolist() == [False, True, False]


def test_routing_is_recorded_and_forced_once_a_call(generator: torch.Generator) -> None:
    x, logits = torch.randn(2, 4, 5, generator=generator), torch.randn(2, 4, 6, generator=generator)
    up, down = torch.randn(6, 5, 3, generator=generator), torch.randn(6, 3, 5, generator=generator)
    with record_routing() as calls:
        expert_mlp(x, logits, up, down, 2, 0)
    assert len(calls) == 1
    assert torch.equal(calls[0], logits)
    mask = torch.zeros(2, 4, 6, dtype=torch.bool).scatter(-1, logits.argsort(-1)[..., :2], True)
    with force_routing([mask]):
        forced = expert_mlp(x, logits, up, down, 2, 0)
    every = torch.einsum("btd,edw->btew", x, up).relu()
    torch.testing.assert_close(forced, torch.einsum("bte,btew,ewo->bto", logits.sigmoid() * mask, every, down))


X, LOGITS, UP, DOWN = torch.ones(2, 3, 4), torch.ones(2, 3, 6), torch.ones(6, 4, 7), torch.ones(6, 7, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "between 1 and the number of experts"),
        ({"k": 7}, "between 1 and the number of experts"),
        ({"activation": 3}, "activation must be 0, 1 or 2"),
        ({"activation": -1}, "activation must be 0, 1 or 2"),
        ({"x": X[0]}, r"x must be \(B,T,D\)"),
        ({"x": X[:1]}, "rows and tokens"),
        ({"logits": LOGITS.double()}, "logits must be"),
        ({"logits": LOGITS[0]}, r"logits must be \(B,T,E\)"),
        ({"logits": LOGITS[..., :5]}, "5 experts"),
        ({"up": UP.half()}, "up must be"),
        ({"up": UP[:5]}, "6 experts"),
        ({"up": UP[:, :3]}, "width 4"),
        ({"down": DOWN.half()}, "down must be"),
        ({"down": DOWN[:5]}, "6 experts"),
        ({"down": DOWN[:, :6]}, "experts of width 7"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    call = {"x": X, "logits": LOGITS, "up": UP, "down": DOWN, "k": 6, "activation": 1}
    assert expert_mlp(**call).shape == (2, 3, 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        expert_mlp(**{**call, **changes})
