"""Feed-forward networks: a dense MLP, plain or gated, and SwitchAll's sigma-MoE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from hsm_models.ops import expert_mlp
from hsm_operators.expert_mlp.torch_op import ACTIVATIONS

from .dataclass_json import added
from .errors import require
from .experts import ExpertWeight, Router
from .parts import FeedForwardConfig, Place, feed_forward

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": F.sigmoid,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


@dataclass(frozen=True)
class MLPConfig(FeedForwardConfig):
    """Dense feed-forward network W2 act(W1 x).

    Attributes:
        hidden: hidden width.
        activation: exact GELU, ReLU, SiLU, or GELU's approximation by tanh.
        bias: biases in both projections.
    """

    hidden: int
    activation: Literal["gelu", "relu", "silu", "gelu_tanh"] = "gelu"
    bias: bool = True

    def check(self, place: Place) -> None:
        super().check(place)
        require(self.hidden > 0, f"{place.where}.hidden must be positive")

    def operations(self, width: int, length: int, context: int) -> int | None:
        return 0  # every token alone


@feed_forward("mlp", MLPConfig)
class MLP(nn.Module):
    """W2 act(W1 x).

    Parameters: `up` (hidden, D), `down` (D, hidden).

    Args:
        width: model width D.
        *fields, **named: an `MLPConfig`, or its fields.
    """

    def __init__(self, width: int, *fields: Any, **named: Any) -> None:
        super().__init__()
        config = MLPConfig.given(width, *fields, **named)
        self.activation = _FUNCTIONS[config.activation]
        self.up = nn.Linear(width, config.hidden, bias=config.bias)
        self.down = nn.Linear(config.hidden, width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,T,D) to (B,T,D)."""
        return self.down(self.activation(self.up(x)))


@dataclass(frozen=True)
class GatedMLPConfig(FeedForwardConfig):
    """Gated feed-forward network W3 (W1 x * act(W2 x)): SwiGLU with SiLU, GEGLU with exact GELU, GLU with a sigmoid.

    Attributes:
        hidden: hidden width.
        activation: of the gate.
        bias: biases in all projections.
    """

    hidden: int
    activation: Literal["silu", "gelu", "sigmoid"] = "silu"
    bias: bool = False

    def check(self, place: Place) -> None:
        super().check(place)
        require(self.hidden > 0, f"{place.where}.hidden must be positive")

    def operations(self, width: int, length: int, context: int) -> int | None:
        return 0  # every token alone


@feed_forward("gated_mlp", GatedMLPConfig)
class GatedMLP(nn.Module):
    """W3 (W1 x * act(W2 x)) (arXiv:2002.05202).

    Parameters: `up` (2*hidden, D), W1 over W2, and `down` (D, hidden).

    Args:
        width: model width D.
        *fields, **named: a `GatedMLPConfig`, or its fields.
    """

    def __init__(self, width: int, *fields: Any, **named: Any) -> None:
        super().__init__()
        config = GatedMLPConfig.given(width, *fields, **named)
        self.activation = _FUNCTIONS[config.activation]
        self.up = nn.Linear(width, 2 * config.hidden, bias=config.bias)
        self.down = nn.Linear(config.hidden, width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,T,D) to (B,T,D)."""
        y, gate = self.up(x).chunk(2, dim=-1)
        return self.down(y * self.activation(gate))


@dataclass(frozen=True)
class MoEConfig(FeedForwardConfig):
    """SwitchAll's sigma-MoE feed-forward network: sum over the k best experts of s_e act(x K_e) V_e.

    Attributes:
        experts: number of experts E.
        active: experts k used per token.
        expert_width: hidden width of one expert.
        activation: ReLU, as in the paper, exact GELU, or its approximation by tanh.
    """

    experts: int
    active: int
    expert_width: int = 128
    activation: Literal["relu", "gelu", "gelu_tanh"] = added("relu")

    def check(self, place: Place) -> None:
        super().check(place)
        require(
            1 <= self.active <= self.experts,
            f"{place.where}: active {self.active} must lie between 1 and experts {self.experts}",
        )
        require(self.expert_width > 0, f"{place.where}.expert_width must be positive")

    def operations(self, width: int, length: int, context: int) -> int | None:
        return 0  # every token alone


@feed_forward("moe", MoEConfig)
class SigmaMoE(nn.Module):
    """y = sum over the k best experts e of sigmoid(logit_e) act(x K_e) V_e (arXiv:2312.07987, section 3.5).

    Parameters: `router` (E,D), `up` (E,D,width of an expert), `down` (E,width of an expert,D).

    Args:
        width: model width D.
        *fields, **named: a `MoEConfig`, or its fields.
    """

    def __init__(self, width: int, *fields: Any, **named: Any) -> None:
        super().__init__()
        config = MoEConfig.given(width, *fields, **named)
        self.active = config.active
        self.activation = ACTIVATIONS.index(config.activation)
        self.router = Router(width, None, config.experts)
        experts, inner = config.experts, config.expert_width
        self.up = ExpertWeight(experts, width, inner, width**-0.5)
        self.down = ExpertWeight(experts, inner, width, (experts * inner) ** -0.5)

    def forward(self, x: Tensor, routed_by: Tensor | None = None) -> Tensor:
        """Map (B,T,D) to (B,T,D); the experts are chosen by `routed_by` (B,T,D), or by x."""
        up, down = self.up.weight, self.down.weight
        logits = self.router(x if routed_by is None else routed_by)
        return expert_mlp(x.to(up.dtype), logits, up, down, self.active, self.activation)
