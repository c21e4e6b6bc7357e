"""Classifiers of token, pixel and image sequences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsm_operators.precision import accumulator

from .config import ModelConfig
from .errors import ConfigError
from .layers import Layer, Output, PatchEmbedding, TokenEmbedding
from .mixers import Shared
from .norms import make_norm
from .positions import absolute_positions, sinusoids


class SequenceClassifier(nn.Module):
    """Tokens, grey levels or an image to class logits (TaylorShift's transformer and, with image input, a ViT).

    Args:
        config: a configuration whose task is "sequence_classifier".

    Raises:
        ConfigError: the configuration is for another task or cannot be built.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.task != "sequence_classifier":
            raise ConfigError(f"config.task is {config.task!r}, but a SequenceClassifier needs 'sequence_classifier'")
        self.config = config
        self.embedding: nn.Module
        if config.image is not None:
            self.embedding = PatchEmbedding(config.image, config.width)
        else:
            self.embedding = TokenEmbedding(
                config.vocab_size, config.width, config.embedding_bias, config.embedding_scale
            )
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width)) if config.pooling != "mean" else None
        self.position_embedding: nn.Parameter | None = None
        if config.positions == "learned":
            self.position_embedding = nn.Parameter(torch.empty(self._position_count(), config.width))
        for parameter in (self.cls_token, self.position_embedding):
            if parameter is not None:
                nn.init.normal_(parameter, std=0.02)
        self.layers = nn.ModuleList(
            Layer(layer, config.width, index, config.norm_eps, config.norm_kind)
            for index, layer in enumerate(config.layers)
        )
        self.norm = make_norm(config.norm_kind, config.width, config.norm_eps)
        self.output = Output(config.width, config.classes, bias=config.output_bias)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Classify each row.

        Args:
            inputs: ids or grey levels (B,T) int64, or an image (B,C,size,size) float.
            lengths: (B,) int64 >= 1, valid tokens of each row (right padding); None means all.

        Returns:
            Logits (B, classes), float32 (float64 in double models).

        Raises:
            ValueError: the sequence is longer than the model's absolute positions.
        """
        x = self._embed(inputs)
        counted = lengths if lengths is None or self.cls_token is None else lengths + 1
        shared: Shared = {}
        for layer in list(self.layers) * self.config.repeats:
            x = layer(x, counted, shared=shared)
        x = self.norm(x)
        if self.config.pooling == "cls":
            return self.output(x[:, 0])
        return self.output(_mean(x if self.cls_token is None else x[:, 1:], lengths))

    def _embed(self, inputs: Tensor) -> Tensor:
        x = self.embedding(inputs)
        self._check_length(x.shape[1])
        if self.config.positions == "sinusoidal":
            x = x + sinusoids(absolute_positions(x), self.config.width, x.dtype)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        if self.position_embedding is not None:
            x = x + F.embedding(absolute_positions(x), self.position_embedding)
        return x

    def _position_count(self) -> int:
        image = self.config.image
        tokens = self.config.max_length if image is None else (image.size // image.patch) ** 2
        return tokens + (1 if self.cls_token is not None else 0)

    def _check_length(self, tokens: int) -> None:
        limited = self.config.positions != "none" and self.config.image is None
        if limited and not torch.compiler.is_compiling() and tokens > self.config.max_length:
            raise ValueError(f"{tokens} tokens exceed the model's max_length {self.config.max_length}")


def _mean(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the mean over the valid tokens of x (B,T,D), summed in float32 at least: (B,D)."""
    precise = x.to(accumulator(x.dtype))
    if lengths is None:
        return precise.mean(dim=1).to(x.dtype)
    valid = (absolute_positions(x) < lengths.unsqueeze(1)).unsqueeze(-1)
    total = torch.where(valid, precise, 0.0).sum(dim=1)
    return (total / lengths.unsqueeze(1)).to(x.dtype)
