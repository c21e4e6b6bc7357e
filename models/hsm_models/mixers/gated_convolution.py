"""Gated short convolutions, as in Based's layers without attention (arXiv:2402.18668)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..decoding import extended
from ..errors import require
from ..parts import MixerConfig, Place, mixer
from ..state import State, StateEntry
from .mixer import Mixer

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class GatedConvolutionConfig(MixerConfig):
    """A causal convolution of each channel, gated by the token: W2 (silu(conv(u)) * v) with [u, v] = W1 x.

    Attributes:
        kernel: tokens K that the convolution sees, the last one the token itself.
        channels: channels C of the convolution; None means twice the model's width.
        bias: biases in both projections.
        convolution_bias: a bias in the convolution.
    """

    kernel: int = 3
    channels: int | None = None
    bias: bool = True
    convolution_bias: bool = False

    def check(self, place: Place) -> None:
        super().check(place)
        require(self.kernel >= 2, f"{place.where}.kernel must be at least 2, got {self.kernel}")
        require(
            self.channels is None or self.channels > 0, f"{place.where}.channels must be positive, got {self.channels}"
        )

    def resolved(self, place: Place) -> Self:
        return self if self.channels is not None else replace(self, channels=2 * place.width)

    def operations(self, width: int, length: int, context: int) -> int | None:
        """A multiply-add for each of the K tokens in each channel, and the gate."""
        return (2 * self.kernel + 1) * length * (self.channels or 2 * width)


@mixer("gated_convolution", GatedConvolutionConfig)
class GatedConvolution(Mixer):
    """W2 (silu(conv(u)) * v), [u, v] = W1 x, with a causal convolution of each channel over the last K tokens.

    Parameters: `input` (2*C, D), `output` (D, C), `taps` (C, K), the oldest token's first, and `taps_bias` (C,).

    Args:
        width: model width D.
        *fields, **named: a `GatedConvolutionConfig`, or its fields.

    Raises:
        ConfigError: a kernel below 2, or no channels.
    """

    def __init__(self, width: int, *fields: Any, **named: Any) -> None:
        super().__init__()
        config = GatedConvolutionConfig.given(width, *fields, **named)
        assert config.channels is not None
        self.kernel, self.channels = config.kernel, config.channels
        self.input = nn.Linear(width, 2 * self.channels, bias=config.bias)
        self.output = nn.Linear(self.channels, width, bias=config.bias)
        self.taps = nn.Parameter(torch.empty(self.channels, self.kernel))
        self.taps_bias = nn.Parameter(torch.zeros(self.channels)) if config.convolution_bias else None
        nn.init.normal_(self.taps, std=self.kernel**-0.5)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        u, gate = self.input(x).chunk(2, dim=-1)
        return self._gated(F.pad(u, (0, 0, self.kernel - 1, 0)), gate)

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"past": (B,K-1,C)}, the last inputs of the convolution; only a copy takes tokens back."""
        return {"past": StateEntry((self.kernel - 1, self.channels))}

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        u, gate = self.input(x).chunk(2, dim=-1)
        known, past = extended(state["past"], u, lengths)
        return self._gated(known.to(u.dtype), gate), {"past": past}

    def _gated(self, known: Tensor, gate: Tensor) -> Tensor:
        """Return (B,T,D) from the K-1 inputs before and the T inputs (B,K-1+T,C), and the gate (B,T,C)."""
        length = gate.shape[1]
        y = known[:, :length] * self.taps[:, 0]
        for tap in range(1, self.kernel):
            y = y + known[:, tap : tap + length] * self.taps[:, tap]
        if self.taps_bias is not None:
            y = y + self.taps_bias
        return self.output(F.silu(y) * gate)
