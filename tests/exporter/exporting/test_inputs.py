"""Example inputs: matched with forward, enlarged where a trace needs it, dynamic where a user expects it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hsm_export.errors import UsageError
from hsm_export.exporting.dimensions import other_sizes, resized, sizes_of
from hsm_export.exporting.inputs import bind
from hsm_export.formats.tensor import InputSpec


class Plain(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, steps: int = 1) -> Tensor:
        return x


class Variadic(nn.Module):
    def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
        return first


def test_defaults_for_the_usual_inputs() -> None:
    cases = {
        "tokens": (torch.zeros(2, 9, dtype=torch.int64), {0: "batch"}, {1: "length"}),
        "mask": (torch.ones(2, 9, dtype=torch.bool), {0: "batch"}, {1: "length"}),
        "frames": (torch.zeros(2, 9, 4), {0: "batch"}, {1: "length"}),
        "image": (torch.zeros(2, 3, 8, 8), {0: "batch"}, {}),
        "features or weights": (torch.zeros(2, 9), {0: "batch"}, {1: "length"}),
        "lengths": (torch.ones(2, dtype=torch.int64), {}, {0: "batch"}),
        "scalar": (torch.tensor(1.0), {}, {}),
    }
    for name, (example, dynamic, free) in cases.items():
        (spec,) = bind(Plain(), (example,)).inputs
        assert (spec.dynamic, spec.free) == (dynamic, free), name


def test_example_values_are_seen_and_bound_nothing() -> None:
    cases = [
        (torch.tensor([[3, 7], [3, 4]]), (3, 7), 3),
        (torch.tensor([[3, 7, 7]], dtype=torch.uint8), (3, 7), 7),
        (torch.rand(2, 3), None, None),
        (torch.tensor([[True, False, True]]), None, 1),
    ]
    for example, seen, usual in cases:
        (spec,) = bind(Plain(), example).inputs
        assert (spec.seen, spec.usual, spec.low, spec.high) == (seen, usual, None, None)


def test_dynamic_dimensions_of_size_one_are_doubled() -> None:
    x, mask = bind(Plain(), (torch.rand(1, 5, 4), torch.rand(1, 5))).inputs
    assert x.example.shape == (2, 5, 4)
    assert mask.example.shape == (2, 5)
    assert torch.equal(x.example[0], x.example[1])


def test_a_broadcast_dimension_stays_one() -> None:
    x, table = bind(Plain(), (torch.rand(3, 5, 4), torch.rand(1, 5, 4))).inputs
    assert table.example.shape == (1, 5, 4)
    assert (table.dynamic, table.free) == ({}, {1: "length"})
    assert (x.dynamic, x.free) == ({0: "batch"}, {1: "length"})


def test_constants_and_keywords_are_passed_on() -> None:
    x = torch.rand(2, 5, 4)
    arguments = bind(Plain(), {"steps": 3, "x": x})
    assert [spec.name for spec in arguments.inputs] == ["x"]
    args, kwargs = arguments.call.arguments({spec.name: spec.example for spec in arguments.inputs})
    assert args == () and kwargs["steps"] == 3 and kwargs["x"] is not None


def test_variable_arguments_are_numbered() -> None:
    arguments = bind(Variadic(), (torch.rand(2, 3, 4), torch.rand(2, 3, 5), torch.rand(2, 3, 6)))
    assert [spec.name for spec in arguments.inputs] == ["first", "rest_0", "rest_1"]
    args, kwargs = arguments.call.arguments({spec.name: spec.example for spec in arguments.inputs})
    assert [value.shape[-1] for value in args] == [4, 5, 6] and kwargs == {}


def test_tensors_inside_lists_and_dicts_are_inputs_of_their_own() -> None:
    tensors = torch.rand(2, 3, 4), torch.rand(2, 3), torch.rand(2)
    arguments = bind(Variadic(), ({"a": tensors[0], "more": [tensors[1], None, (2.5, tensors[2])]},))
    assert [spec.name for spec in arguments.inputs] == ["first_a", "first_more_0", "first_more_2_1"]
    args, kwargs = arguments.call.arguments(
        dict(zip(("first_a", "first_more_0", "first_more_2_1"), "xyz", strict=True))
    )
    assert args == ({"a": "x", "more": ["y", None, (2.5, "z")]},) and kwargs == {}


def test_names_and_dimensions_of_the_users_choice() -> None:
    arguments = bind(
        Plain(), (torch.rand(2, 5, 4), torch.rand(2, 5)), ["frames", "keep"], {"frames": {0: "rows"}, "keep": {}}
    )
    assert [(spec.name, spec.dynamic, spec.free) for spec in arguments.inputs] == [
        ("frames", {0: "rows"}, {}),
        ("keep", {}, {}),
    ]


@pytest.mark.parametrize(
    ("examples", "names", "dynamic", "words"),
    [
        ((torch.rand(2, 3, 4), torch.rand(2, 3), 1), None, None, "do not fit"),
        ({"y": torch.rand(2, 3, 4)}, None, None, "do not fit"),
        (({torch.rand(2, 3)},), None, None, "is a set"),
        ((torch.rand(2, 3, dtype=torch.complex64),), None, None, "is complex"),
        (7, None, None, "type int, not tensors"),
        ((3,), None, None, "no tensor"),
        ((torch.rand(0, 3, 4),), None, None, "empty"),
        ((torch.rand(2, 3, 4),), ["a", "b"], None, "takes 1 tensors"),
        ((torch.rand(2, 3, 4), torch.rand(2, 3)), ["a", "a"], None, "2 names"),
        ((torch.rand(2, 3, 4),), None, {"y": {0: "batch"}}, "the module has x"),
        ((torch.rand(2, 3, 4),), None, {"x": {3: "batch"}}, "lacks"),
    ],
)
def test_refusals(examples: object, names: list[str] | None, dynamic: dict | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        bind(Plain(), examples, names, dynamic)


def test_other_sizes_come_from_repetition_and_truncation() -> None:
    tokens = torch.arange(6).reshape(2, 3)
    arguments = bind(Plain(), (tokens, torch.tensor([3, 1])), ["tokens", "sizes"]).inputs
    inputs = (
        InputSpec("tokens", "int64", ("rows", "time"), (2, 3)),
        InputSpec("sizes", "int64", ("rows",), (2,), counts="time"),
    )
    assert sizes_of(inputs) == {"rows": 2, "time": 3}
    longer, sizes = resized(arguments, inputs, {"rows": 3, "time": 5})
    assert longer.tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4], [0, 1, 2, 0, 1]]
    assert sizes.tolist() == [3, 1, 3]
    shorter, sizes = resized(arguments, inputs, {"time": 1})
    assert shorter.tolist() == [[0], [3]]
    assert sizes.tolist() == [1, 1]


def test_other_sizes_are_different_primes_near_the_old_ones() -> None:
    assert other_sizes({"batch": 2, "height": 5, "width": 7, "time": 9}) == {
        "batch": 3,
        "height": 7,
        "width": 5,
        "time": 11,
    }
    many = other_sizes({f"d{index}": 96 for index in range(40)})
    assert len(set(many.values())) == 40 and 96 not in many.values()
