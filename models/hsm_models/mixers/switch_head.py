"""SwitchHead: attention with few heads, whose value and output projections are routed experts.

Csordas et al., NeurIPS 2024 (arXiv:2312.07987).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..dataclass_json import added
from ..errors import require
from ..experts import ExpertMatMul, ExpertMatMulSum, Router
from ..parts import Place, mixer
from ..positions import absolute_positions, rotary_tables, rotate, sinusoids
from ..state import State, StateEntry
from .attention import (
    attend_remembered,
    attend_whole,
    attention_operations,
    check_rotation,
    check_window,
    memory_entries,
    seen,
)
from .mixer import HeadsConfig, Mixer


@dataclass(frozen=True)
class SwitchHeadConfig(HeadsConfig):
    """SwitchHead attention with experts in the value and output projections (arXiv:2312.07987).

    Attributes:
        heads: number of heads H.
        head_dim: width f of a head; None means width / heads.
        experts: experts E per head; 1 means dense projections with a sigmoid output gate per head.
        active: experts k used per token and head.
        positions: rotary ("rope"), Transformer-XL relative ("xl", without its biases u and v) or no positions.
        rope_fraction: fraction of the head's channels that RoPE turns.
        rope_base: base of RoPE's wavelengths.
        same_selection: the source routing also selects and weights the output experts.
        window: tokens that a token sees at most, itself included (Transformer-XL's context window); None means all.
        causal: token t attends to tokens <= t instead of to all.
    """

    heads: int = 2
    experts: int = 4
    active: int = 2
    positions: Literal["rope", "xl", "none"] = "rope"
    rope_fraction: float = 0.5
    rope_base: float = 10000.0
    same_selection: bool = False
    window: int | None = added(None)
    causal: bool = added(True)

    def check(self, place: Place) -> None:
        super().check(place)
        require(
            1 <= self.active <= self.experts,
            f"{place.where}: active {self.active} must lie between 1 and experts {self.experts}",
        )
        require(0 <= self.rope_fraction <= 1, f"{place.where}.rope_fraction must lie in [0, 1]")
        check_rotation(self.rope_base, place)
        check_window(self.window, place)
        require(self.causal or self.window is None, f"{place.where}: window has no meaning when causal is false")

    def operations(self, width: int, length: int, context: int) -> int | None:
        work = attention_operations(self, width, length, context, self.window)
        if self.positions == "xl":  # each distance projected once, and its product with every query
            head_dim = self.head_width(width)
            keys = seen(length, context, self.window)
            work += 2 * keys * width * self.heads * head_dim + 2 * self.heads * length * keys * head_dim
        return work

    @property
    def is_causal(self) -> bool:
        return self.causal


@mixer("switch_head", SwitchHeadConfig)
class SwitchHead(Mixer):
    """SwitchHead attention, eq. 6-10 of the paper, without biases.

    Queries, keys and values may be made from different sequences, as in the authors' layer: `forward` takes `key` and
    `value` besides x. Value experts are chosen by the keys' sequence, output experts by the queries'.

    Parameters: `query`, `key` (H*f, D); `value` (H,E,D,f); `output` (H,E,f,D); routers `source`, `destination`
    (H*E, D); for XL positions `position` (H*f, D). With one expert, `value` (H*f, D) and `output` (D, H*f) are dense
    and `destination` (H, D) gates each head's output; there is no `source`. With `same_selection` there is no
    `destination` either.

    Args:
        width: model width D.
        *fields, **named: a `SwitchHeadConfig`, or its fields.

    Raises:
        ConfigError: heads that do not split the width, active experts out of range, unknown positions, or a window
            below 1.
    """

    def __init__(self, width: int, *fields: Any, **named: Any) -> None:
        super().__init__()
        config = SwitchHeadConfig.given(width, *fields, **named)
        heads, experts, active = config.heads, config.experts, config.active
        self.width = width
        self.heads = heads
        self.head_dim = config.head_width(width)
        self.positions = config.positions
        self.rotary_channels = int(config.rope_fraction * self.head_dim) // 2 * 2
        self.rope_base = config.rope_base
        self.window = config.window
        self.causal = config.causal
        self.query = nn.Linear(width, heads * self.head_dim, bias=False)
        self.key = nn.Linear(width, heads * self.head_dim, bias=False)
        self.position = nn.Linear(width, heads * self.head_dim, bias=False) if self.positions == "xl" else None
        self.value: nn.Module
        self.output: nn.Module
        if experts == 1:
            self.value = nn.Linear(width, heads * self.head_dim, bias=False)
            self.output = nn.Linear(heads * self.head_dim, width, bias=False)
            self.source = None
        else:
            self.value = ExpertMatMul(heads, experts, width, self.head_dim, active)
            self.output = ExpertMatMulSum(heads, experts, self.head_dim, width, active)
            self.source = Router(width, heads, experts)
        shares = config.same_selection and experts > 1
        self.destination = None if shares else Router(width, heads, experts)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        state: State | None = None,
        position: Tensor | None = None,
        key: Tensor | None = None,
        value: Tensor | None = None,
    ) -> Any:
        """Call `mix`, or with a state `forward_cached`, as a call of the module.

        Raises:
            ValueError: `key` together with a state, or sequences of lengths that do not fit.
        """
        if state is None:
            return self.mix(x, lengths, key, value)
        if key is not None:
            raise ValueError("key is for whole sequences: with a state, keys are made from x")
        return self.forward_cached(x, state, position, lengths, value)  # type: ignore[arg-type]

    def mix(
        self, x: Tensor, lengths: Tensor | None = None, key: Tensor | None = None, value: Tensor | None = None
    ) -> Tensor:
        """Mix whole sequences.

        Args:
            x: (B,T,D), the source of queries and of the choice of output experts.
            lengths: (B,) int64, valid tokens of each row of `key` (right padding); None means all. Causal attention
                ignores it.
            key: (B,S,D), the source of keys and of the choice of value experts; None means x. S = T when causal.
            value: (B,S,D), the source of values; None means `key`.

        Returns:
            (B,T,D), of x's dtype.

        Raises:
            ValueError: sequences of lengths that do not fit.
        """
        key = x if key is None else key
        value = key if value is None else value
        self._check_lengths(x, key, value)
        positions = absolute_positions(x)
        key_positions = positions if key is x else absolute_positions(key)
        source = self._route_source(key)
        q, k, v = self._project(x, key, value, positions, key_positions, source)
        distances = x.shape[1] if self.causal else x.shape[1] + key.shape[1] - 1
        attended = attend_whole(
            q,
            k,
            v,
            None if self.causal else lengths,
            causal=self.causal,
            window=self.window,
            scale=self.head_dim**-0.25,
            relative=self._distances(distances, x.shape[1] - 1, x),
        )
        return self._combine(x, attended, source if key is x else self._route_source(x))

    def _check_lengths(self, x: Tensor, key: Tensor, value: Tensor) -> None:
        """Refuse what does not fit; an exported graph has no such check, its products fail by themselves."""
        if torch.compiler.is_compiling():
            return
        if key.shape[1] != value.shape[1]:
            raise ValueError(f"key has {key.shape[1]} tokens and value {value.shape[1]}: they must have the same")
        if self.causal and key.shape[1] != x.shape[1]:
            raise ValueError(
                f"causal attention needs as many keys as queries, got {key.shape[1]} and {x.shape[1]}; "
                "set causal to false for another sequence"
            )

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe {"key", "value"}: (B,C,H,f), or a ring of the last `window + rollback` tokens.

        Keys are stored rotated, values already mixed by their experts: 2*H*f numbers a token. With XL positions and no
        window there is a third one, "relative": the keys of the distances so far.
        """
        if not self.causal:
            return super().state_entries(rollback)
        relative = self.position is not None and self.window is None
        return memory_entries(self.heads, self.head_dim, self.window, rollback, relative)

    def forward_cached(
        self, x: Tensor, state: State, position: Tensor, lengths: Tensor, value: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if not self.causal:
            return super().forward_cached(x, state, position, lengths)
        positions = absolute_positions(x, position)
        source = self._route_source(x)
        q, k, v = self._project(x, x, x if value is None else value, positions, positions, source)
        if self.window is not None:
            relative = self._distances(self.window, self.window - 1, x)
        else:
            relative = None if self.position is None else self._relative_keys(-positions, self.position, x)
        scale = self.head_dim**-0.25
        y, after = attend_remembered(
            q, k, v, state, position, lengths, window=self.window, scale=scale, relative=relative
        )
        return self._combine(x, y, source), after

    def _route_source(self, x: Tensor) -> Tensor | None:
        return None if self.source is None else self.source(x)

    def _project(
        self, x: Tensor, key: Tensor, value: Tensor, positions: Tensor, key_positions: Tensor, source: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return q (B,T,H,f), k and v (B,S,H,f), k scaled by f^-1/4 and, with RoPE, both rotated."""
        q = self._split_heads(self.query(x))
        k = self._split_heads(self.key(key)) * self.head_dim**-0.25
        v = self._split_heads(self.value(value)) if source is None else self.value(value, source)
        if self.positions == "rope" and self.rotary_channels:
            tables = rotary_tables(positions, self.rotary_channels, self.rope_base, x.dtype)
            same = key_positions is positions
            key_tables = tables if same else rotary_tables(key_positions, self.rotary_channels, self.rope_base, x.dtype)
            q, k = rotate(q, tables), rotate(k, key_tables)
        return q, k, v

    def _combine(self, x: Tensor, attended: Tensor, source: Tensor | None) -> Tensor:
        """Project the attended values (B,T,H,f) back to (B,T,D) with the experts that the input x chooses."""
        logits = source if self.destination is None else self.destination(x)
        assert logits is not None
        if self.source is None:
            return self.output((attended * torch.sigmoid(logits).to(attended.dtype)).flatten(2))
        return self.output(attended, logits)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_dim))

    def _distances(self, count: int, before: int, x: Tensor) -> Tensor | None:
        """Return XL's keys of the offsets -before, 1 - before, ... of a key from its query, (count,H,f), or None."""
        if self.position is None:
            return None
        return self._relative_keys(torch.arange(count, device=x.device) - before, self.position, x)

    def _relative_keys(self, offsets: Tensor, position: nn.Linear, x: Tensor) -> Tensor:
        """Return XL's keys W PE(offset) of offsets (...), scaled by f^-1/4: (...,H,f) of x's dtype."""
        return self._split_heads(position(sinusoids(offsets, self.width, x.dtype))) * self.head_dim**-0.25
