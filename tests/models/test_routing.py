"""Routing hooks under torch.compile: invisible outside their blocks, and neither lost nor recompiled inside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hsm_models import LayerConfig, ModelConfig, SwitchHeadConfig, build_model
from hsm_operators import routing
from hsm_operators.routing import force_routing, record_routing

pytestmark = pytest.mark.usefixtures("reference_maths")
CONFIG = ModelConfig(
    task="language_model",
    width=16,
    vocab_size=11,
    layers=(LayerConfig(SwitchHeadConfig(heads=2, experts=3, active=1), None),),
)


@pytest.fixture
def model() -> Iterator[torch.nn.Module]:
    torch.manual_seed(0)
    torch.compiler.reset()
    module = build_model(CONFIG).eval()
    module.compile(backend="eager")
    with torch.inference_mode():
        yield module
    torch.compiler.reset()


def graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def tokens(length: int) -> torch.Tensor:
    return torch.arange(length).remainder(11).unsqueeze(0)


def test_a_new_length_compiles_once_more_and_then_never_again(model: torch.nn.Module) -> None:
    before = graphs()
    for length in (5, 7, 12, 20, 33):
        model(tokens(length))
    assert graphs() - before <= 2


def test_hooks_see_and_steer_compiled_models_without_compiling_anew(model: torch.nn.Module) -> None:
    uncompiled = build_model(CONFIG).eval()
    uncompiled.load_state_dict(model.state_dict())
    settled = 0
    for length in (5, 7, 12, 20, 33, 40):
        with record_routing() as expected:
            uncompiled(tokens(length))
        with record_routing() as calls:
            model(tokens(length))
        torch.testing.assert_close(calls, expected)
        # The first expert for everyone, which the routers would not choose.
        masks = [torch.zeros_like(logits, dtype=torch.bool).index_fill_(-1, torch.tensor(0), True) for logits in calls]
        with force_routing(masks):
            forced = model(tokens(length))
        with force_routing(masks):
            torch.testing.assert_close(forced, uncompiled(tokens(length)))
        settled = settled or (graphs() if length == 12 else 0)
    assert graphs() == settled


def test_hooks_are_gone_when_the_last_block_ends() -> None:
    logits = torch.zeros(1, 1, 1, 2)
    with record_routing() as outer:
        with record_routing() as inner:
            routing.observe(logits, 1)
        routing.observe(logits, 1)
    assert (len(inner), len(outer)) == (1, 1)
    assert routing.observe(logits, 1) is logits
    with pytest.raises(ZeroDivisionError), force_routing([]):
        raise ZeroDivisionError
    assert routing.observe(logits, 1) is logits
