"""Feed-forward networks: the sigma-MoE against NumPy, and the MLP's activations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.models.mixers.switch_head_oracle import sigma_moe

from hsm_models.feed_forward import MLP, SigmaMoE
from hsm_models.ops import force_routing, record_routing


@pytest.mark.parametrize(("experts", "active"), [(6, 2), (4, 4), (3, 1), (1, 1)])
def test_sigma_moe_matches_numpy(experts: int, active: int, generator: torch.Generator) -> None:
    network = SigmaMoE(10, experts, active, expert_width=7).double()
    x = torch.randn(2, 9, 10, generator=generator, dtype=torch.float64)
    router, up, down = (part.weight.detach().numpy() for part in (network.router, network.up, network.down))
    want = np.stack([sigma_moe(row, router, up, down, active) for row in x.numpy()])
    np.testing.assert_allclose(network(x).detach().numpy(), want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sigma_moe_runs_in_half_precision(dtype: torch.dtype, generator: torch.Generator) -> None:
    network = SigmaMoE(16, 4, 2, expert_width=8).to(dtype)
    y = network(torch.randn(2, 5, 16, generator=generator).to(dtype))
    assert y.dtype == dtype
    assert bool(torch.isfinite(y).all())


def test_sigma_moe_trains_its_router(generator: torch.Generator) -> None:
    network = SigmaMoE(10, 4, 2, expert_width=8)
    network(torch.randn(2, 9, 10, generator=generator)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_the_mlp_uses_exact_gelu_or_relu(generator: torch.Generator) -> None:
    x = torch.randn(1, 3, 4, generator=generator, dtype=torch.float64)
    for name, activation in (
        ("gelu", lambda u: u * 0.5 * (1 + torch.erf(u / 2**0.5))),
        ("relu", lambda u: u.clamp(min=0)),
    ):
        network = MLP(4, 9, activation=name).double()
        torch.testing.assert_close(network(x), network.down(activation(network.up(x))))
    assert MLP(4, 9, bias=False).up.bias is None


def test_refuses_more_active_experts_than_there_are() -> None:
    with pytest.raises(ValueError, match="active 3"):
        SigmaMoE(8, 2, 3)


def test_forced_routing_reaches_the_sigma_moe(generator: torch.Generator) -> None:
    network = SigmaMoE(10, 4, 2, expert_width=8).double()
    x = torch.randn(1, 6, 10, generator=generator, dtype=torch.float64)
    with record_routing() as calls:
        plain = network(x)
    assert len(calls) == 1, "the layer chooses once"
    chosen = calls[0] >= calls[0].topk(2, dim=-1).values[..., -1:]
    with force_routing([chosen]):
        torch.testing.assert_close(network(x), plain, rtol=0, atol=0)
    with force_routing([~chosen]):
        other = network(x)
    router, up, down = (part.weight.detach().numpy() for part in (network.router, network.up, network.down))
    everything = sigma_moe(x[0].numpy(), router, up, down, 4)
    np.testing.assert_allclose((plain + other)[0].detach().numpy(), everything, rtol=1e-12, atol=1e-13)


def test_weights_of_earlier_versions_are_accepted(generator: torch.Generator) -> None:
    """They had an axis for the one head of each expert."""
    network, other = SigmaMoE(10, 4, 2, expert_width=8), SigmaMoE(10, 4, 2, expert_width=8)
    weights = network.state_dict()
    assert {name: value.dim() for name, value in weights.items()} == {
        "router.weight": 2,
        "up.weight": 3,
        "down.weight": 3,
    }
    other.load_state_dict({name: v.unsqueeze(1) if v.dim() == 3 else v for name, v in weights.items()})
    x = torch.randn(1, 6, 10, generator=generator)
    torch.testing.assert_close(other(x), network(x), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=r"up\.weight"):
        other.load_state_dict({name: v.unsqueeze(0) if v.dim() == 3 else v for name, v in weights.items()})
