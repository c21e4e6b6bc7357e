"""What models are stacked from: the residual layer, embeddings and the final projection."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsm_operators.precision import accumulator

from .config import ImageConfig, LayerConfig
from .mixers import Mixer, Shared
from .norms import NormKind, make_norm
from .state import State


class Layer(nn.Module):
    """Pre-norm residual layer: x += mixer(norm1 x); x += feed_forward(norm2 x).

    With `norm` "peri" it is x += mixer(norm1 x, value=x); x += feed_forward(x, routed_by=norm2 x).

    Args:
        config: the layer's configuration; with `layer_scale`, both branches are multiplied by learned vectors (D,).
        width: model width D.
        index: index of the layer, from 0.
        norm_eps: epsilon of both norms.
        norm_kind: "layer" for LayerNorms, "rms" for RMSNorms.
    """

    def __init__(
        self, config: LayerConfig, width: int, index: int, norm_eps: float, norm_kind: NormKind = "layer"
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(norm_kind, width, norm_eps)
        self.peri = config.norm == "peri"
        self.mixer: Mixer = config.mixer.build(width, index)
        self.shares = config.mixer.leaves is not None or config.mixer.takes is not None
        self.scale1 = nn.Parameter(torch.ones(width)) if config.layer_scale else None
        self.norm2: nn.Module | None = None
        self.feed_forward: nn.Module | None = None
        self.scale2: nn.Parameter | None = None
        if config.feed_forward is not None:
            self.norm2 = make_norm(norm_kind, width, norm_eps)
            self.feed_forward = config.feed_forward.build(width, index)
            self.scale2 = nn.Parameter(torch.ones(width)) if config.layer_scale else None

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        state: State | None = None,
        position: Tensor | None = None,
        shared: Shared | None = None,
    ) -> Any:
        """Map (B,T,D) to (B,T,D); with the mixer's state also return the new one, see `Mixer.forward_cached`.

        Args:
            x: (B,T,D).
            lengths: (B,) int64, valid tokens of each row.
            state: the mixer's state.
            position: (B,) int64, with a state: tokens of each row that came before.
            shared: what earlier layers of this call have left for later ones; mixers that leave something add to it.
        """
        source: dict[str, Any] = {"value": x} if self.peri else {}
        if self.shares:
            source["shared"] = shared
        if state is None:
            return self._feed_forward(x + _scaled(self.mixer(self.norm1(x), lengths, **source), self.scale1))
        mixed, state = self.mixer(self.norm1(x), lengths, state, position, **source)
        return self._feed_forward(x + _scaled(mixed, self.scale1)), state

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.norm2 is None or self.feed_forward is None:
            return x
        normed = self.norm2(x)
        y = self.feed_forward(x, normed) if self.peri else self.feed_forward(normed)
        return x + _scaled(y, self.scale2)


class TokenEmbedding(nn.Module):
    """Rows of a table, optionally scaled and shifted by a bias: the same as a linear map over one-hots.

    Args:
        vocab_size: number of token ids.
        width: model width D.
        bias: add a learned vector (D,).
        scale: factor on the table's rows.
    """

    def __init__(self, vocab_size: int, width: int, bias: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(vocab_size, width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        nn.init.normal_(self.weight, std=0.02 / scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ids (B,T) int64 to (B,T,D)."""
        x = F.embedding(tokens, self.weight)
        x = x if self.scale == 1.0 else x * self.scale
        return x if self.bias is None else x + self.bias


class PatchEmbedding(nn.Module):
    """Cut an image (B,C,size,size) into square patches and project each: (B, (size/patch)^2, D)."""

    def __init__(self, config: ImageConfig, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.channels, width, kernel_size=config.patch, stride=config.patch)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


class Output(nn.Linear):
    """Linear map to logits, which are float32 at least, whatever the model's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits.to(accumulator(logits.dtype))


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale
