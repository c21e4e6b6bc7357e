"""Models of which only some modules know that they decode: step = chunks = whole, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.shared import EXAMPLES, example_model
from torch import Tensor, nn

from hsm_models.decoding import (
    Decodable,
    DecodingModel,
    State,
    StateEntry,
    StatefulModule,
    decodable,
    extended,
    scanned,
    valid,
    written,
)
from hsm_models.mixers import HSM, SoftmaxAttention, TaylorShift
from hsm_models.state import initial_state

VOCAB, WIDTH = 11, 8


class Total(StatefulModule):
    """The sum of all tokens so far, and how many there were."""

    def state_entries(self, rollback: int = 0) -> Mapping[str, StateEntry]:
        return {"sum": StateEntry((WIDTH,), type="accumulator"), "count": StateEntry((), type="int64")}

    def step(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        kept = torch.where(valid(x, lengths).unsqueeze(-1), x.to(state["sum"].dtype), 0)
        total = state["sum"].unsqueeze(1) + kept.cumsum(1)
        return total.to(x.dtype), {"sum": total[:, -1], "count": state["count"] + lengths}


class Positions(StatefulModule):
    """No state, but it must know where its tokens stand."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, WIDTH)

    def step(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        where = position.unsqueeze(1) + torch.arange(x.shape[1])
        return x + self.table(where.clamp(max=31)), {}


class Model(nn.Module):
    """tokens -> logits through any modules."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


def own(name: str) -> nn.Module:
    """Return one of the models above, or an example's."""
    torch.manual_seed(0)
    models: dict[str, Any] = {
        "total": lambda: Model(Positions(), Total()),
        "mixers": lambda: Model(HSM(WIDTH, (2,)), SoftmaxAttention(WIDTH, 2), TaylorShift(WIDTH, 2, causal=True)),
    }
    return models[name]() if name in models else example_model(name)


@pytest.mark.parametrize("name", ["total", "mixers", *EXAMPLES])
def test_pieces_give_what_one_pass_gives(name: str, generator: torch.Generator) -> None:
    model = own(name).double().eval()
    decoder = decodable(model)
    tokens = torch.randint(0, VOCAB, (2, 12), generator=generator)
    state = initial_state(decoder.state_entries(), 2, 12, torch.float64, torch.device("cpu"))
    position = torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        whole = model(tokens)
        for taken in ([3, 0], [1, 4], [0, 1], [5, 5], [2, 1]):
            lengths = torch.tensor(taken)
            piece = torch.randint(0, VOCAB, (2, max(taken)), generator=generator)  # padding is rubbish
            for row, (start, count) in enumerate(zip(position.tolist(), taken, strict=True)):
                piece[row, :count] = tokens[row, start : start + count]
            before = {key: value.clone() for key, value in state.items()}
            logits, after = decoder.forward_cached(piece, state, position, lengths)
            for key, value in before.items():
                assert torch.equal(state[key], value)  # not changed
            for row, (start, count) in enumerate(zip(position.tolist(), taken, strict=True)):
                torch.testing.assert_close(logits[row, :count], whole[row, start : start + count])
                assert count or all(torch.equal(after[key][row], value[row]) for key, value in before.items())
            state, position = after, position + lengths
    assert position.tolist() == [11, 11]
    if name == "total":
        assert state["layers.1.count"].tolist() == [11, 11]


def test_names_are_paths() -> None:
    assert list(decodable(own("total")).state_entries()) == ["layers.1.sum", "layers.1.count"]
    names = list(decodable(example_model("rwkv")).state_entries())
    assert names[:2] == ["blocks.0.time_mix.wkv", "blocks.0.time_mix.shift.last"]
    assert len(names) == 6


def test_rollback_reaches_the_modules() -> None:
    decoder = decodable(own("mixers"))
    assert decoder.state_entries(3)["layers.0.ring"].spare == 3
    assert decoder.state_entries()["layers.0.ring"].spare == 0


def test_the_step_shares_the_models_weights_names_and_mode() -> None:
    model = own("total")
    step = DecodingModel(model)
    assert dict(step.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert not step.eval().training
    state = initial_state(decodable(model).state_entries(), 1, 1, torch.float64, torch.device("cpu"))
    double = copy.deepcopy(step).double()
    once = torch.ones(1, dtype=torch.int64)
    logits, total, count = double(once.unsqueeze(1), once, once, *state.values())
    assert (logits.dtype, total.dtype, count.dtype) == (torch.float64, torch.float64, torch.int64)
    assert next(model.parameters()).dtype == torch.float32
    assert not double.model.training


def test_last_logits_of_a_model_that_knows_no_last_only(generator: torch.Generator) -> None:
    model = own("total").eval()
    tokens, start = torch.randint(0, VOCAB, (2, 3), generator=generator), torch.zeros(2, dtype=torch.int64)
    state = initial_state(decodable(model).state_entries(), 2, 3, torch.float32, torch.device("cpu"))
    everything, *_ = DecodingModel(model)(tokens, start, torch.tensor([3, 1]), *state.values())
    last, *_ = DecodingModel(model, last_logits=True)(tokens, start, torch.tensor([3, 1]), *state.values())
    assert torch.equal(last[:, 0], everything[[0, 1], [2, 0]])


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Total()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x))


class Never(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Total()

    def forward(self, x: Tensor) -> Tensor:
        return x


class Outsider(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.known = Total()
        self.hidden = (Total(),)

    def forward(self, x: Tensor) -> Tensor:
        return self.known(x) + self.hidden[0](x)


class Forgetful(Total):
    def step(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        y, state = super().step(x, state, position, lengths)
        return y, {"sum": state["sum"]}


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Twice, "layers.0.inner is called twice in a step"),
        (Never, "forward calls no module that carries the state layers.0.inner.sum"),
        (Outsider, "Total carries state, but it is no sub-module of the model"),
        (Forgetful, r"layers.0: step returned the state \['sum'\] instead of \['count', 'sum'\]"),
    ],
)
def test_what_has_no_one_state_is_refused(layer: type[nn.Module], words: str) -> None:
    decoder = decodable(Model(layer()))
    once = torch.ones(1, dtype=torch.int64)
    state = initial_state(decoder.state_entries(), 1, 4, torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match=words):
        decoder.forward_cached(once.unsqueeze(1), state, once, once)
    Model(Total())(once.unsqueeze(1))  # the failed call has left nothing behind


def test_what_does_not_decode() -> None:
    with pytest.raises(TypeError, match="Linear does not decode: it has neither forward_cached"):
        decodable(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="not causal"):
        decodable(Model(TaylorShift(WIDTH, 2))).state_entries()
    assert isinstance(decodable(own("total")), Decodable)


def test_the_last_tokens_of_earlier_calls_come_first() -> None:
    past, x = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.tensor([[[5.0]], [[6.0]]])
    known, kept = extended(past, x, torch.tensor([1, 0]))
    assert known.squeeze(-1).tolist() == [[1, 2, 5], [3, 4, 6]]
    assert kept.squeeze(-1).tolist() == [[2, 5], [3, 4]]


def test_tokens_are_written_where_they_belong() -> None:
    past, x = torch.full((3, 4), -1.0), torch.tensor([[5.0, 6.0], [7.0, 0.0], [0.0, 0.0]])
    after = written(past, x, torch.tensor([2, 0, 3]), torch.tensor([2, 1, 0]))
    assert after.tolist() == [[-1, -1, 5, 6], [7, -1, -1, -1], [-1, -1, -1, -1]]
    with pytest.raises(ValueError, match="holds 4 tokens, but a row reaches 5"):
        written(past, x, torch.tensor([3, 0, 0]), torch.tensor([2, 2, 2]))


def test_a_scan_is_the_loop(generator: torch.Generator) -> None:
    x, h = torch.randn(2, 5, 3, generator=generator), torch.zeros(2, 3)
    last, every = scanned(lambda h, x: (h + x, 2 * h), h, (x,))
    torch.testing.assert_close(last, x.sum(1))
    torch.testing.assert_close(every[:, 1:], 2 * x.cumsum(1)[:, :-1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((None, None),), "one of them may be None"),
        (((0, 3),), "at least 1"),
        (((3,), "backwards"), "'backwards' must be one of position, slots, snapshot"),
        (((3,), "slots", 3), "cannot have 3 spare slots"),
        (((), "slots"), "cannot have 0 spare slots"),
        (((3,), "position", 1), "has no spare slots"),
        (((3,), "snapshot", 0, "float8"), "'float8' must be one of model, accumulator, int64"),
    ],
)
def test_entries_that_contradict_themselves(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StateEntry(*arguments)


def test_the_documentations_module_does_what_it_says(generator: torch.Generator) -> None:
    text = (Path(__file__).parents[2] / "docs" / "decoding.md").read_text()
    (source,) = [block for block in text.split("```python")[1:] if "class ShortConvolution" in block]
    names: dict[str, Any] = {"nn": nn}
    exec(source.partition("```")[0], names)
    layer = names["ShortConvolution"](WIDTH, 3)
    decoder = decodable(Model(layer))
    assert list(decoder.state_entries()) == ["layers.0.last"]
    tokens = torch.randint(0, VOCAB, (1, 6), generator=generator)
    state = initial_state(decoder.state_entries(), 1, 6, torch.float32, torch.device("cpu"))
    for position in range(6):
        where = torch.tensor([position])
        logits, state = decoder.forward_cached(tokens[:, position : position + 1], state, where, torch.ones_like(where))
    torch.testing.assert_close(logits, decoder.forward(tokens)[:, -1:])
