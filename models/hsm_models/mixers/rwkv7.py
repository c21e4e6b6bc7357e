"""RWKV-7 "Goose" (arXiv:2503.14456): time mixing, a linear attention with decay and delta rule, and channel mixing.

Each of RWKV's blocks is two of our layers without a feed-forward network: channel mixing looks one token back, so it is
a mixer too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsm_models.ops import decayed_delta_rule, token_shift, token_shift_cached
from hsm_operators import OPERATORS, expression
from hsm_operators.precision import accumulator

from ..decoding import is_decoding
from ..errors import require
from ..parts import MixerConfig, Place, mixer
from ..state import State, StateEntry
from .mixer import HeadsConfig, Mixer, Shared

_STRONGEST_DECAY = -math.exp(-0.5)  # logarithm of the strongest decay of a token
_INPUTS = ("receptance", "decay", "key", "value", "rate", "gate")
_VALUES = "rwkv7.values"


@dataclass(frozen=True)
class RWKV7Config(HeadsConfig):
    """RWKV-7's time mixing (arXiv:2503.14456, section 4).

    Attributes:
        heads: number of heads H.
        head_dim: width N of a head; None means width / heads.
        decay_rank: rank of the matrix that makes the decays.
        rate_rank: rank of the matrix that makes the in-context learning rates.
        gate_rank: rank of the matrix that makes the output's gates.
        value_rank: rank of the matrix that tells how much of an earlier layer's values is mixed into the layer's own;
            None for a layer, such as the first, whose values are those that later layers mix in.
        head_norm_eps: epsilon of the norm of each head's output.
    """

    decay_rank: int = 64
    rate_rank: int = 64
    gate_rank: int = 128
    value_rank: int | None = None
    head_norm_eps: float = 64e-5

    def check(self, place: Place) -> None:
        super().check(place)
        for name in ("decay_rank", "rate_rank", "gate_rank", "value_rank"):
            rank = getattr(self, name)
            require(rank is None or rank > 0, f"{place.where}.{name} must be positive, got {rank}")
        require(
            0 < self.head_norm_eps < 1,
            f"{place.where}.head_norm_eps must lie between 0 and 1, got {self.head_norm_eps}",
        )

    @property
    def leaves(self) -> str | None:
        return _VALUES if self.value_rank is None else None

    @property
    def takes(self) -> str | None:
        return None if self.value_rank is None else _VALUES

    def operations(self, width: int, length: int, context: int) -> int | None:
        """As the operator's specification counts them, and the six mixtures with the token before."""
        operator = OPERATORS["DecayedDeltaRule"]
        assert operator.cost is not None
        inner = self.head_width(width)
        sizes = {"B": 1, "H": self.heads, "T": length, "K": inner, "V": inner, "G": inner}
        return int(expression.evaluate(operator.cost.flops, sizes)) + 2 * len(_INPUTS) * length * width


class LowRank(nn.Module):
    """up(act(down x)): (B,T,D) to (B,T,out), with a bias of `up` or none."""

    def __init__(self, width: int, rank: int, out: int, bias: bool = True) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, out, bias=bias)

    def forward(self, x: Tensor, activation: Any = None) -> Tensor:
        hidden = self.down(x)
        return self.up(hidden if activation is None else activation(hidden))


class HeadNorm(nn.Module):
    """LayerNorm of each head's output (B,T,H,N), with a weight and a bias for every channel of every head."""

    def __init__(self, heads: int, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(heads, width))
        self.bias = nn.Parameter(torch.zeros(heads, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=self.eps) * self.weight + self.bias


class _PreviousToken(Mixer):
    """A mixer that sees the token before each: in whole sequences, and in a ring while it decodes."""

    width: int

    def _ring(self, rollback: int) -> StateEntry:
        return StateEntry((1 + rollback, self.width), "slots", spare=rollback)

    @staticmethod
    def _shifted(x: Tensor, ring: Tensor, position: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return token_shift_cached(x, ring, position, lengths, [1])


@mixer("rwkv7", RWKV7Config)
class RWKV7(_PreviousToken):
    """RWKV-7's time mixing.

    Every input is a mixture of the token and the one before it. With r, w, k, v, a and g made from such mixtures and
    k-hat the normalised k * key_scale of each head, the state of a head is S_t = S_(t-1) (diag(w_t) - k-hat_t
    (a_t * k-hat_t)^T) + v_t k_t^T, read with r_t; the output is normalised per head, gets a bonus for the token itself,
    is gated and projected.

    Parameters: mixtures `mix_*` (D,); projections `receptance`, `key`, `value` (H*N, D) and `output` (D, H*N); low-rank
    matrices `decay`, `rate`, `gate` and, with value_rank, `earlier`; `key_scale`, `rate_mix` and `bonus` (H, N);
    `norm` (H, N).

    Args:
        width: model width D.
        *fields, **named: an `RWKV7Config`, or its fields.

    Raises:
        ConfigError: heads that do not split the width, or a rank below 1.
    """

    def __init__(self, width: int, *fields: Any, **named: Any) -> None:
        super().__init__()
        config = RWKV7Config.given(width, *fields, **named)
        self.width, self.heads, self.head_dim = width, config.heads, config.head_width(width)
        inner = self.heads * self.head_dim
        for name in _INPUTS:
            self.register_parameter(f"mix_{name}", nn.Parameter(torch.full((width,), 0.5)))
        self.receptance = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)
        self.decay = LowRank(width, config.decay_rank, inner)
        self.rate = LowRank(width, config.rate_rank, inner)
        self.gate = LowRank(width, config.gate_rank, inner, bias=False)
        self.earlier = None if config.value_rank is None else LowRank(width, config.value_rank, inner)
        shape = (self.heads, self.head_dim)
        self.key_scale = nn.Parameter(torch.full(shape, 0.85))
        self.rate_mix = nn.Parameter(torch.ones(shape))
        self.bonus = nn.Parameter(torch.zeros(shape))
        self.norm = HeadNorm(*shape, config.head_norm_eps)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        state: State | None = None,
        position: Tensor | None = None,
        shared: Shared | None = None,
    ) -> Any:
        """Call `mix`, or with a state `forward_cached`, as a call of the module.

        Args:
            shared: what earlier layers have left; needed with value_rank, and added to without.

        Raises:
            ValueError: no earlier layer has left its values.
        """
        if state is not None:
            return self.forward_cached(x, state, position, lengths, shared)  # type: ignore[arg-type]
        return super().forward(x) if is_decoding() else self.mix(x, lengths, shared)

    def mix(self, x: Tensor, lengths: Tensor | None = None, shared: Shared | None = None) -> Tensor:
        batch, length = x.shape[:2]
        everything = torch.full((batch,), length, dtype=torch.int64, device=x.device)
        state = x.new_zeros((batch, self.heads, self.head_dim, self.head_dim), dtype=accumulator(x.dtype))
        return self._mix(x, token_shift(x, [1]), state, everything, shared)[0]

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"ring": (B,1,D)}, the last token, and {"state": (B,H,N,N)}; sums cannot take tokens back."""
        square = (self.heads, self.head_dim, self.head_dim)
        return {"ring": self._ring(rollback), "state": StateEntry(square, type="accumulator")}

    def forward_cached(
        self, x: Tensor, state: State, position: Tensor, lengths: Tensor, shared: Shared | None = None
    ) -> tuple[Tensor, State]:
        before, ring = self._shifted(x, state["ring"], position, lengths)
        y, sums = self._mix(x, before, state["state"], lengths, shared)
        return y, {"ring": ring, "state": sums}

    def _mix(
        self, x: Tensor, before: Tensor, state: Tensor, lengths: Tensor, shared: Shared | None
    ) -> tuple[Tensor, Tensor]:
        """Return y (B,T,D) and the state after the valid tokens.

        Args:
            before: (B,T,D), the token before each.
            state: (B,H,N,N), keys by values.
        """
        change = before - x
        mixed = {name: x + change * self.get_parameter(f"mix_{name}") for name in _INPUTS}
        r = self._heads(self.receptance(mixed["receptance"]))
        k = self._heads(self.key(mixed["key"]))
        v = self._values(self._heads(self.value(mixed["value"])), mixed["value"], shared)
        log_decay = _STRONGEST_DECAY * torch.sigmoid(self._heads(self.decay(mixed["decay"], torch.tanh)))
        rate = torch.sigmoid(self._heads(self.rate(mixed["rate"])))
        gate = self.gate(mixed["gate"], torch.sigmoid)
        direction = F.normalize((k * self.key_scale).to(accumulator(k.dtype)), dim=-1).to(k.dtype)
        k = k * (1 + (rate - 1) * self.rate_mix)
        y, after = decayed_delta_rule(r, k, v, log_decay, -direction, direction * rate, state, lengths)
        y = self.norm(y) + (r * k * self.bonus).sum(dim=-1, keepdim=True) * v
        return self.output(y.flatten(2) * gate), after

    def _values(self, v: Tensor, mixed: Tensor, shared: Shared | None) -> Tensor:
        """Leave the values (B,T,H,N) to later layers, or mix in those that an earlier one has left."""
        if self.earlier is None:
            if shared is not None:
                shared[_VALUES] = v
            return v
        if shared is None or _VALUES not in shared:
            raise ValueError(
                "a RWKV7 mixer with value_rank needs `shared`, in which an earlier one has left its values"
            )
        return v + (shared[_VALUES] - v) * torch.sigmoid(self._heads(self.earlier(mixed)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_dim))


@dataclass(frozen=True)
class RWKV7ChannelConfig(MixerConfig):
    """RWKV-7's channel mixing: W2 relu(W1 u)^2 of a mixture u of the token and the one before it.

    Attributes:
        hidden: hidden width.
    """

    hidden: int

    def check(self, place: Place) -> None:
        super().check(place)
        require(self.hidden > 0, f"{place.where}.hidden must be positive, got {self.hidden}")

    def operations(self, width: int, length: int, context: int) -> int | None:
        """The mixture with the token before."""
        return 2 * length * width


@mixer("rwkv7_channel", RWKV7ChannelConfig)
class RWKV7Channel(_PreviousToken):
    """RWKV-7's channel mixing, W2 relu(W1 (x + (x_before - x) * mix))^2.

    Parameters: `mix_key` (D,), `key` (hidden, D), `value` (D, hidden).

    Args:
        width: model width D.
        *fields, **named: an `RWKV7ChannelConfig`, or its fields.
    """

    def __init__(self, width: int, *fields: Any, **named: Any) -> None:
        super().__init__()
        config = RWKV7ChannelConfig.given(width, *fields, **named)
        self.width = width
        self.mix_key = nn.Parameter(torch.full((width,), 0.5))
        self.key = nn.Linear(width, config.hidden, bias=False)
        self.value = nn.Linear(config.hidden, width, bias=False)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._mix(x, token_shift(x, [1]))

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"ring": (B,1,D)}, the last token."""
        return {"ring": self._ring(rollback)}

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        before, ring = self._shifted(x, state["ring"], position, lengths)
        return self._mix(x, before), {"ring": ring}

    def _mix(self, x: Tensor, before: Tensor) -> Tensor:
        return self.value(F.relu(self.key(x + (before - x) * self.mix_key)).square())
