"""Language models that are none of ours: of stateful modules, and written against the protocol alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hsm_models.decoding import State, StateEntry, StatefulModule, valid

VOCAB, WIDTH = 256, 8


class LinearAttention(StatefulModule):
    """y_t = q_t S_t with S_t = sum k v^T, in a closed form of products; it also counts its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def state_entries(self, rollback: int = 0) -> Mapping[str, StateEntry]:
        return {"sum": StateEntry((WIDTH, WIDTH), type="accumulator"), "count": StateEntry((), type="int64")}

    def step(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        past = state["sum"]
        q, k, v = self.qkv(x).to(past.dtype).chunk(3, dim=-1)
        k = torch.where(valid(x, lengths).unsqueeze(-1), k, 0.0)
        count = state["count"].unsqueeze(1) + torch.arange(1, x.shape[1] + 1)
        y = q @ past + torch.tril(q @ k.transpose(1, 2)) @ v
        y = (y / count.unsqueeze(-1)).to(x.dtype)
        return y, {"sum": past + k.transpose(1, 2) @ v, "count": state["count"] + lengths}


class Linear(nn.Module):
    """tokens -> logits by one layer of linear attention."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.attention = layer or LinearAttention()
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(x + self.attention(x))


class Protocol(nn.Module):
    """The protocol without any help: logits from the mean of all tokens so far, at most 20 of them."""

    max_length = 20

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.places = nn.Parameter(torch.randn(self.max_length, WIDTH))
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        rows, length = tokens.shape
        everything = torch.full((rows,), length)
        return self.forward_cached(tokens, self.initial_state(rows), torch.zeros_like(everything), everything)[0]

    def initial_state(self, batch: int) -> State:
        return {"total": self.places.new_zeros(batch, WIDTH)}

    def state_entries(self, rollback: int = 0) -> Mapping[str, StateEntry]:
        return {"total": StateEntry((WIDTH,))}

    def forward_cached(
        self, tokens: Tensor, state: State, position: Tensor, lengths: Tensor, last_only: bool = False
    ) -> tuple[Tensor, State]:
        steps = torch.arange(tokens.shape[1])
        where = position.unsqueeze(1) + steps
        is_valid = (steps < lengths.unsqueeze(1)).unsqueeze(-1)
        x = self.embedding(tokens) + self.places[torch.where(is_valid.squeeze(-1), where, 0)]
        total = state["total"].unsqueeze(1) + torch.where(is_valid, x, 0.0).cumsum(1)
        mean = total / (where + 1).unsqueeze(-1)
        if last_only:
            mean = mean[torch.arange(len(tokens)), (lengths - 1).clamp(min=0)].unsqueeze(1)
        return self.head(mean), {"total": total[:, -1]}


def linear() -> Linear:
    torch.manual_seed(2)
    return Linear()


def protocol() -> Protocol:
    torch.manual_seed(3)
    return Protocol()
