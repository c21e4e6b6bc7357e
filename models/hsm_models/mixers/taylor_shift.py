"""TaylorShift attention: softmax with its exponential replaced by 1 + x + x^2/2 (arXiv:2403.02920)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hsm_models.ops import causal_taylor_shift, taylor_shift, taylor_shift_masked
from hsm_operators import OPERATORS, expression
from hsm_operators.causal_taylor_shift.whole import is_better_whole, whole_causal_taylor_shift

from ..dataclass_json import added
from ..errors import require
from ..parts import Place, mixer
from ..state import State, StateEntry
from .mixer import HeadsConfig, Mixer


@dataclass(frozen=True)
class TaylorShiftConfig(HeadsConfig):
    """TaylorShift attention (arXiv:2403.02920).

    Attributes:
        heads: number of heads H.
        head_dim: width d of a head's queries and keys; None means width / heads.
        causal: token t attends to tokens <= t (our extension) instead of to all.
        normalize: normalise q and k and learn a temperature per head; False is the plain polynomial.
        output_norm: multiply the output by sqrt(N / d); not available when causal.
        form: which of two equal formulas PyTorch evaluates when not causal: "direct", O(N^2 d), "efficient", O(N d^3),
            or "auto", the cheaper one; exported files hold both.
        bias: biases in the qkv and output projections.
        value_dim: width e of a head's values; None means head_dim. Narrow keys beside wide values are cheap: the cost
            of the efficient form and the state grow with d*d*e.
    """

    causal: bool = False
    normalize: bool = True
    output_norm: bool = False
    form: Literal["auto", "direct", "efficient"] = "auto"
    bias: bool = True
    value_dim: int | None = added(None)

    def check(self, place: Place) -> None:
        super().check(place)
        require(
            not (self.causal and self.output_norm), f"{place.where}: output_norm has no meaning when causal is true"
        )
        require(
            self.value_dim is None or self.value_dim > 0,
            f"{place.where}.value_dim must be positive, got {self.value_dim}",
        )

    @property
    def is_causal(self) -> bool:
        return self.causal

    def operations(self, width: int, length: int, context: int) -> int | None:
        """As the operator's specification counts them."""
        operator = OPERATORS["CausalTaylorShift" if self.causal else "TaylorShift"]
        assert operator.cost is not None
        d = self.head_width(width)
        sizes = {"B": 1, "H": self.heads, "T": length, "d": d, "e": self.value_dim or d}
        return int(expression.evaluate(operator.cost.flops, sizes))


@mixer("taylor_shift", TaylorShiftConfig)
class TaylorShift(Mixer):
    """Multi-head TaylorShift attention.

    Parameters are named as in the authors' code: `qkv` (H*(2*d + e), D), `proj` (D, H*e), `temperature` (1,H,1,1),
    where e = d unless the configuration has `value_dim`.

    Args:
        width: model width D.
        *fields, **named: a `TaylorShiftConfig`, or its fields.

    Raises:
        ConfigError: heads that do not split the width, or output_norm together with causal.
    """

    def __init__(self, width: int, *fields: Any, **named: Any) -> None:
        super().__init__()
        config = TaylorShiftConfig.given(width, *fields, **named)
        self.heads = config.heads
        self.head_dim = config.head_width(width)
        self.value_dim = config.value_dim or self.head_dim
        self.causal = config.causal
        self.normalize = config.normalize
        self.output_norm = config.output_norm
        self.form: str = config.form
        self.qkv = nn.Linear(width, self.heads * (2 * self.head_dim + self.value_dim), bias=config.bias)
        self.proj = nn.Linear(self.heads * self.value_dim, width, bias=config.bias)
        self.temperature = nn.Parameter(torch.ones(1, self.heads, 1, 1)) if config.normalize else None

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.causal:
            return self._forward_whole(x)
        q, k, v = self._project(x)
        flags = (self.normalize, self.output_norm, self.form)
        if lengths is None:
            y = taylor_shift(q, k, v, self._temperature(x), *flags)
        else:
            y = taylor_shift_masked(q, k, v, self._temperature(x), lengths, *flags)
        return self.proj(y.flatten(2))

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"state": (B,H,F,e), "norm": (B,H,F)} with F = 1 + d + d(d+1)/2; sums cannot take tokens back."""
        if not self.causal:
            return super().state_entries(rollback)
        d = self.head_dim
        features = 1 + d + d * (d + 1) // 2
        return {
            "state": StateEntry((self.heads, features, self.value_dim), type="accumulator"),
            "norm": StateEntry((self.heads, features), type="accumulator"),
        }

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        if not self.causal:
            return super().forward_cached(x, state, position, lengths)
        return self._forward_causal(x, state, lengths)

    def _forward_whole(self, x: Tensor) -> Tensor:
        q, k, v = self._project(x)
        if is_better_whole(q):
            y = whole_causal_taylor_shift(q, k, v, self._temperature(x), self.normalize)
            return self.proj(y.flatten(2))
        batch, length = x.shape[:2]
        everything = torch.full((batch,), length, dtype=torch.int64, device=x.device)
        return self._mixed(q, k, v, x, self.initial_state(batch, 0), everything)[0]

    def _forward_causal(self, x: Tensor, state: State, lengths: Tensor) -> tuple[Tensor, State]:
        return self._mixed(*self._project(x), x, state, lengths)

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, state: State, lengths: Tensor) -> tuple[Tensor, State]:
        y, sums, norm = causal_taylor_shift(
            q, k, v, self._temperature(x), state["state"], state["norm"], lengths, self.normalize
        )
        return self.proj(y.flatten(2)), {"state": sums, "norm": norm}

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q and k (B,T,H,d) and v (B,T,H,e)."""
        projected = self.qkv(x)
        if self.value_dim == self.head_dim:
            q, k, v = projected.unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
            return q, k, v
        widths = (self.head_dim, self.head_dim, self.value_dim)
        parts = projected.split([self.heads * width for width in widths], dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, width)) for part, width in zip(parts, widths, strict=True))
        return q, k, v

    def _temperature(self, x: Tensor) -> Tensor:
        """Return the temperature (H,); the un-normalised polynomial has none, which is the same as 1."""
        return x.new_ones(self.heads) if self.temperature is None else self.temperature.reshape(self.heads)
