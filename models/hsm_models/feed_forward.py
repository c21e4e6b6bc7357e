"""Feed-forward networks: a dense MLP and SwitchAll's sigma-MoE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsm_models.ops import expert_matmul

from .config import FeedForwardConfig, MLPConfig
from .experts import ExpertMatMul, ExpertMatMulSum, Router

_SATURATED = 1e4  # |logit| whose sigmoid is exactly 0 or 1, in float64 too


class MLP(nn.Module):
    """W2 act(W1 x), with exact GELU or ReLU.

    Args:
        width: model width D.
        hidden: hidden width.
        activation: "gelu" or "relu".
        bias: biases in both projections.
    """

    def __init__(self, width: int, hidden: int, activation: str = "gelu", bias: bool = True) -> None:
        super().__init__()
        self.activation = F.relu if activation == "relu" else F.gelu
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,T,D) to (B,T,D)."""
        return self.down(self.activation(self.up(x)))


class SigmaMoE(nn.Module):
    """y = sum over the k best experts e of sigmoid(logit_e) ReLU(x K_e) V_e (arXiv:2312.07987, section 3.5).

    Between the two maps stands a ReLU of every expert's own hidden units, so each expert is made a head of one expert:
    a gate of exactly zero switches it off, the sigmoid stands in the first map (it commutes with ReLU), and a gate of
    exactly one lets it pass through the second.

    Parameters: `router` (E,D), `up` (E,1,D,width of an expert), `down` (E,1,width of an expert,D).

    Args:
        width: model width D.
        experts: number of experts E.
        active: experts k used per token.
        expert_width: hidden width of one expert.
    """

    def __init__(self, width: int, experts: int, active: int, expert_width: int = 128) -> None:
        super().__init__()
        if not 1 <= active <= experts:
            raise ValueError(f"active {active} must lie between 1 and experts {experts}")
        self.active = active
        self.router = Router(width, 1, experts)
        self.up = ExpertMatMul(experts, 1, width, expert_width, active=1)
        self.down = ExpertMatMulSum(experts, 1, expert_width, width, active=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,T,D) to (B,T,D)."""
        logits = self.router(x)
        chosen = self._gates(logits) > 0
        gated = torch.where(chosen, logits, -_SATURATED).transpose(2, 3)
        passing = ((2 * chosen.to(logits.dtype) - 1) * _SATURATED).transpose(2, 3)
        return self.down(F.relu(self.up(x, gated)), passing)

    def _gates(self, logits: Tensor) -> Tensor:
        """Return the gates of all experts (B,T,1,E), zero outside the k best: routing one unit into E channels."""
        experts = logits.shape[-1]
        identity = torch.eye(experts, dtype=logits.dtype, device=logits.device).reshape(1, experts, 1, experts)
        return expert_matmul(torch.ones_like(logits[:, :, 0, :1]), logits, identity, self.active)


def build_feed_forward(config: FeedForwardConfig, width: int) -> nn.Module:
    """Make the feed-forward network that a configuration describes, for model width D."""
    if isinstance(config, MLPConfig):
        return MLP(width, config.hidden, config.activation, config.bias)
    return SigmaMoE(width, config.experts, config.active, config.expert_width)
