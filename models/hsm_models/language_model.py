"""Causal language models of any mixers, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsm_operators.precision import accumulator

from .config import ModelConfig
from .errors import ConfigError
from .layers import Layer, Output, TokenEmbedding
from .mixers import Shared
from .norms import make_norm
from .positions import absolute_positions, sinusoids
from .rows import take_rows
from .state import State, StateEntry


class LanguageModel(nn.Module):
    """Token ids to next-token logits.

    Args:
        config: a configuration whose task is "language_model".

    Raises:
        ConfigError: the configuration is for another task or cannot be built.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.task != "language_model":
            raise ConfigError(f"config.task is {config.task!r}, but a LanguageModel needs 'language_model'")
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.width, config.embedding_bias, config.embedding_scale)
        self.embedding_norm: nn.Module | None = None
        if config.embedding_norm:
            self.embedding_norm = make_norm(config.norm_kind, config.width, config.norm_eps)
        self.position_embedding: nn.Parameter | None = None
        if config.positions == "learned":
            self.position_embedding = nn.Parameter(torch.empty(config.max_length, config.width))
            nn.init.normal_(self.position_embedding, std=0.02)
        self.layers = nn.ModuleList(
            Layer(layer, config.width, index, config.norm_eps, config.norm_kind)
            for index, layer in enumerate(config.layers)
        )
        self.norm = make_norm(config.norm_kind, config.width, config.norm_eps)
        self.output: Output | TiedOutput
        if config.tie_embeddings:
            self.output = TiedOutput(config.vocab_size, config.output_bias)
        else:
            self.output = Output(config.width, config.vocab_size, bias=config.output_bias)

    @property
    def max_length(self) -> int:
        """Tokens that the absolute positions allow; 0 means any number."""
        return self.config.max_length

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B,T) int64 to logits (B,T,V), float32 (float64 in double models).

        Raises:
            ValueError: the sequence is longer than the model's absolute positions.
        """
        self._check_length(tokens.shape[1])
        x = self._embed(tokens, absolute_positions(tokens))
        shared: Shared = {}
        for layer in self._stack():
            x = layer(x, shared=shared)
        return self._logits(x)

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        """Describe the state: each layer's, with keys "{layer}.{key}".

        Args:
            rollback: tokens that a row may take back.
        """
        return {
            f"{index}.{key}": entry
            for index, layer in enumerate(self._stack())
            for key, entry in layer.mixer.state_entries(rollback).items()
        }

    def initial_state(self, batch: int, capacity: int, rollback: int = 0) -> State:
        """Return the state before the first token, with the keys of `state_entries`.

        Args:
            batch: rows B.
            capacity: tokens that a row may reach; only states that grow need memory for them.
            rollback: tokens that a row may take back.
        """
        return {
            f"{index}.{key}": value
            for index, layer in enumerate(self._stack())
            for key, value in layer.mixer.initial_state(batch, capacity, rollback).items()
        }

    def forward_cached(
        self, tokens: Tensor, state: State, position: Tensor, lengths: Tensor, last_only: bool = False
    ) -> tuple[Tensor, State]:
        """Continue each row from its state: one token, a chunk or a prompt are the same call.

        Args:
            tokens: (B,T) int64, right-padded.
            state: from `initial_state` or an earlier call.
            position: (B,) int64, tokens of each row that came before.
            lengths: (B,) int64, valid tokens of each row in this call, 0..T.
            last_only: return the logits of each row's last valid token only.

        Returns:
            Logits (B,T,V), unspecified beyond `lengths`, or (B,1,V), unspecified where the length is 0; and the new
            state.

        Raises:
            ValueError: a row outgrows the state's capacity or the model's absolute positions.
        """
        if not torch.compiler.is_compiling():
            self._check_length(int((position + lengths).max()))
        positions = absolute_positions(tokens, position)
        if self.position_embedding is not None:
            # Those of padding may lie beyond the table; of valid tokens none may, and the lookup refuses it.
            positions = torch.where(absolute_positions(tokens) < lengths.unsqueeze(1), positions, 0)
        x = self._embed(tokens, positions)
        new_state: State = {}
        shared: Shared = {}
        for index, layer in enumerate(self._stack()):
            prefix = f"{index}."
            own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
            x, own = layer(x, lengths, own, position, shared)
            new_state |= {prefix + key: value for key, value in own.items()}
        if last_only:
            x = take_rows(x, (lengths - 1).clamp(min=0).unsqueeze(1))
        return self._logits(x), new_state

    def _stack(self) -> Iterable[Layer]:
        """Return the layers in the order in which they run, those of a repeated group again and again."""
        return list(cast("Iterable[Layer]", self.layers)) * self.config.repeats

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self.embedding(tokens)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        if self.position_embedding is not None:
            return x + F.embedding(positions, self.position_embedding)
        if self.config.positions == "sinusoidal":
            return x + sinusoids(positions, self.config.width, x.dtype)
        return x

    def _check_length(self, longest: int) -> None:
        """Refuse rows longer than the absolute positions; an exported graph has the limit in its metadata instead."""
        limited = self.config.positions != "none" and not torch.compiler.is_compiling()
        if limited and longest > self.config.max_length:
            raise ValueError(f"{longest} tokens exceed the model's max_length {self.config.max_length}")

    def _logits(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if isinstance(self.output, TiedOutput):
            return self.output(x, self.embedding.weight)
        return self.output(x)


class TiedOutput(nn.Module):
    """Logits x E^T + b from the embedding table E (V,D), so that the checkpoint holds it once."""

    def __init__(self, vocab_size: int, bias: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        logits = F.linear(x, table, self.bias)
        return logits.to(accumulator(logits.dtype))
