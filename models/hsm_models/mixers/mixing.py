"""Mixing functions f of HSM: y_t = f(u_t, u_{t-s}), modules of (current, shifted), both (B,T,D).

The definitions are our reading of the framework in arXiv:2601.22852. The scalar and the vector mixing are a single
`shift_mix` operator, so they live in `ShiftMixing`, which gives that operator its weights; all others are built on
`token_shift`, exactly like a mixing that a user writes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError


class ShiftMixing(nn.Module):
    """y = alpha * current + beta * shifted, with one alpha and beta per channel ("vector") or per shift ("scalar").

    Args:
        width: model width D.
        groups: number of shifts, each with an equal group of channels.
        per_channel: one weight per channel instead of one per group.
    """

    def __init__(self, width: int, groups: int = 1, per_channel: bool = True) -> None:
        super().__init__()
        self.width = width
        size = width if per_channel else groups
        self.alpha = nn.Parameter(torch.full((size,), 0.5))
        self.beta = nn.Parameter(torch.full((size,), 0.5))

    def channel_weights(self) -> tuple[Tensor, Tensor]:
        """Return alpha and beta, each (D,)."""
        return self._per_channel(self.alpha), self._per_channel(self.beta)

    def _per_channel(self, weight: Tensor) -> Tensor:
        groups = weight.shape[0]
        return weight.unsqueeze(1).expand(groups, self.width // groups).reshape(self.width)

    def forward(self, current: Tensor, shifted: Tensor) -> Tensor:
        alpha, beta = self.channel_weights()
        return alpha * current + beta * shifted


class MatrixMixing(nn.Module):
    """y = A current + B shifted, with full matrices (D,D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.current = nn.Linear(width, width, bias=False)
        self.shifted = nn.Linear(width, width, bias=False)

    def forward(self, current: Tensor, shifted: Tensor) -> Tensor:
        return self.current(current) + self.shifted(shifted)


class GatedMixing(nn.Module):
    """y = g * current + (1 - g) * shifted, with g = sigmoid(W current + c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width)

    def forward(self, current: Tensor, shifted: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(current))
        return gate * current + (1 - gate) * shifted


class GatedPairMixing(nn.Module):
    """y = g * current + (1 - g) * shifted, with g = sigmoid(W [current; shifted] + c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, width)

    def forward(self, current: Tensor, shifted: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(torch.cat((current, shifted), dim=-1)))
        return gate * current + (1 - gate) * shifted


class FusionMixing(nn.Module):
    """y = W2 gelu(W1 [current; shifted]), an MLP of both tokens.

    Args:
        width: model width D.
        hidden: hidden width of the MLP; None means D.
    """

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = width if hidden is None else hidden
        self.up = nn.Linear(2 * width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, current: Tensor, shifted: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(torch.cat((current, shifted), dim=-1))))


_BUILDERS: dict[str, Callable[[int, int, int | None], nn.Module]] = {
    "scalar": lambda width, groups, hidden: ShiftMixing(width, groups, per_channel=False),
    "vector": lambda width, groups, hidden: ShiftMixing(width, groups),
    "matrix": lambda width, groups, hidden: MatrixMixing(width),
    "gated": lambda width, groups, hidden: GatedMixing(width),
    "gated2": lambda width, groups, hidden: GatedPairMixing(width),
    "fusion": lambda width, groups, hidden: FusionMixing(width, hidden),
}
MIXINGS = tuple(_BUILDERS)
CUSTOM = "custom"  # a user-written module in a configuration


def build_mixing(name: str, width: int, groups: int, hidden: int | None) -> nn.Module:
    """Make a mixing function by its name in `MIXINGS`.

    Args:
        name: the name.
        width: model width D.
        groups: number of shifts.
        hidden: hidden width of "fusion"; None means D.

    Raises:
        ConfigError: the name stands for a module of the user's.
    """
    if name == CUSTOM:
        raise ConfigError(
            "a configuration with mixing 'custom' cannot be rebuilt: build the model in your own code with "
            "HSM(width, mixing=your_module) and export that module"
        )
    return _BUILDERS[name](width, groups, hidden)
