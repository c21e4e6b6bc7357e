"""Routed linear maps: sigmoid-gated top-k experts without renormalisation (arXiv:2312.07987, section 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsm_models.ops import expert_matmul, expert_matmul_sum
from hsm_operators.precision import accumulator


class Router(nn.Module):
    """Logits of each head's experts, in float32 at least: half-precision logits would tie and flip selections.

    Args:
        width: model width D.
        heads: number of heads H; None is one choice for the whole token.
        experts: experts E per head.
    """

    def __init__(self, width: int, heads: int | None, experts: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.empty((heads or 1) * experts, width))
        nn.init.normal_(self.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B,T,D) to logits (B,T,H,E), or (B,T,E) without heads; float32 or, in double models, float64."""
        dtype = accumulator(x.dtype)
        if not torch.is_autocast_enabled(x.device.type):
            logits = F.linear(x.to(dtype), self.weight.to(dtype))
        else:
            with torch.autocast(x.device.type, enabled=False):
                logits = F.linear(x.to(dtype), self.weight.to(dtype))
        return logits if self.heads is None else logits.unflatten(-1, (self.heads, -1))


class ExpertMatMul(nn.Module):
    """y[h] = sum over the k best experts e of head h of sigmoid(logit[h,e]) * x W[h,e].

    Args:
        heads, experts, width, head_dim: H, E, D and f of the weight (H,E,D,f).
        active: experts k used per token and head.
    """

    def __init__(self, heads: int, experts: int, width: int, head_dim: int, active: int) -> None:
        super().__init__()
        self.active = active
        self.weight = nn.Parameter(torch.empty(heads, experts, width, head_dim))
        nn.init.normal_(self.weight, std=width**-0.5)

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        """Map x (B,T,D) with logits (B,T,H,E) to (B,T,H,f)."""
        return expert_matmul(x.to(self.weight.dtype), logits, self.weight, self.active)


class ExpertMatMulSum(nn.Module):
    """y = sum over heads h and their k best experts e of sigmoid(logit[h,e]) * x[h] W[h,e].

    Args:
        heads, experts, head_dim, width: H, E, f and D of the weight (H,E,f,D).
        active: experts k used per token and head.
    """

    def __init__(self, heads: int, experts: int, head_dim: int, width: int, active: int) -> None:
        super().__init__()
        self.active = active
        self.weight = nn.Parameter(torch.empty(heads, experts, head_dim, width))
        nn.init.normal_(self.weight, std=(heads * head_dim) ** -0.5)

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        """Map x (B,T,H,f) with logits (B,T,H,E) to (B,T,D)."""
        return expert_matmul_sum(x.to(self.weight.dtype), logits, self.weight, self.active)


class ExpertWeight(nn.Module):
    """One matrix for each expert, `weight` (E,in,out).

    Weights with the axis of one head that earlier versions stored, (E,1,in,out), are accepted.

    Args:
        experts, inputs, outputs: E, in and out.
        deviation: standard deviation of the initial values.
    """

    def __init__(self, experts: int, inputs: int, outputs: int, deviation: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, inputs, outputs))
        nn.init.normal_(self.weight, std=deviation)
        self.register_load_state_dict_pre_hook(_drop_the_head)


def _drop_the_head(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
    """Take the axis of one head out of the weight that is about to be loaded."""
    weight = state_dict.get(f"{prefix}weight")
    if weight is not None and weight.dim() == 4 and weight.shape[1] == 1:
        state_dict[f"{prefix}weight"] = weight.squeeze(1)
