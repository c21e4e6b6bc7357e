"""Operators of one's own in PyTorch: what is made of a function, and which functions are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.operators.samples import conv_state, gated_linear, taps, window_mean
from torch import Tensor

import hsm_export
from hsm_export import Attribute, OperatorError, Rule, operator, register
from hsm_operators import find
from hsm_operators.registry import find_torch


def test_the_specification_follows_from_signature_and_function() -> None:
    spec = taps.operator
    assert find("samples", "Taps") is spec
    assert (spec.qualified_name, spec.torch_name) == ("samples::Taps", "taps")
    assert spec.description.startswith("Sum of shifted inputs")
    assert spec.attributes == (
        Attribute("dilations", "ints"),
        Attribute("causal", "int", "", 0, 1),
        Attribute("scale", "float"),
    )
    assert find("samples", "Taps__dilations1_2") is spec
    assert find("samples", "Unknown") is None


def test_a_domain_may_have_dots_which_a_namespace_of_pytorch_has_not(tmp_path: Path) -> None:
    @operator("my.lab::Twice", "x[B,T,D] -> y[B,T,D]")
    def twice(x: Tensor) -> Tensor:
        return 2 * x

    class Uses(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = twice(x)
            return y

    assert torch.equal(torch.ops.my_lab.twice(torch.ones(1, 2, 3)), torch.full((1, 2, 3), 2.0))
    assert find_torch(torch.ops.my_lab.twice.default) is find("my.lab", "Twice")
    hsm_export.export(Uses(), (torch.randn(1, 2, 3),), tmp_path / "twice.onnx")
    assert hsm_export.validate(tmp_path / "twice.onnx", against=Uses(), runtimes=["ort"]).passed


def test_it_is_one_torch_operator_with_gradients() -> None:
    x, gain = torch.randn(2, 7, 5, requires_grad=True), torch.randn(5, requires_grad=True)
    y = window_mean(x, gain, span=2)
    assert type(y.grad_fn).__name__.lower().startswith("generatedbackwardfor_samples_window_mean")
    found = torch.autograd.grad(y.square().sum(), (x, gain))
    plain = window_mean.__wrapped__(x, gain, span=2)
    for a, b in zip(found, torch.autograd.grad(plain.square().sum(), (x, gain)), strict=True):
        torch.testing.assert_close(a, b)


def test_states_have_gradients_too() -> None:
    tensors = [torch.randn(2, 5, 3, 4, requires_grad=True) for _ in range(4)]
    bias, state = torch.randn(3, 4, requires_grad=True), torch.randn(2, 3, 4, 4, requires_grad=True)
    y, after = gated_linear(*tensors, bias, state=state)
    found = torch.autograd.grad(y.sum() + after.sum(), (*tensors, bias, state))
    expected_state, outputs = state, []
    for token in range(5):
        expected_state, now = gated_linear.__wrapped__(expected_state, *(t[:, token] for t in tensors), bias)
        outputs.append(now)
    total = torch.stack(outputs, 1).sum() + expected_state.sum()
    for a, b in zip(found, torch.autograd.grad(total, (*tensors, bias, state)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_float32(dtype: torch.dtype) -> None:
    x, gain = torch.randn(1, 40, 3).to(dtype), torch.randn(3).to(dtype)
    y = window_mean(x, gain, span=9)
    assert y.dtype == dtype
    assert torch.equal(y, window_mean(x.float(), gain.float(), span=9).to(dtype))
    assert conv_state(x, torch.randn(4, 3).to(dtype))[1].dtype == torch.float32  # a state keeps its type


def test_doubles_are_computed_in_float64() -> None:
    y, state = gated_linear(*(torch.randn(1, 3, 2, 4).double() for _ in range(4)), torch.randn(2, 4).double())
    assert y.dtype == state.dtype == torch.float64


def test_torch_compile_keeps_it_whole() -> None:
    compiled = torch.compile(lambda x, g: window_mean(x, g, span=4) * 2, backend="aot_eager", fullgraph=True)
    x, gain = torch.randn(2, 6, 3), torch.randn(3)
    torch.testing.assert_close(compiled(x, gain), window_mean(x, gain, span=4) * 2)
    states = torch.compile(lambda x, w: conv_state(x, w)[0], backend="aot_eager", fullgraph=True)
    weight = torch.randn(4, 3)
    torch.testing.assert_close(states(x, weight), conv_state(x, weight)[0])


def test_it_is_called_by_position_and_by_name() -> None:
    x, gain = torch.randn(1, 4, 2), torch.randn(2)
    assert torch.equal(window_mean(gain=gain, x=x), window_mean(x, gain, span=3))
    with pytest.raises(TypeError, match="has no argument colour"):
        window_mean(x, gain, colour=1)
    with pytest.raises(TypeError, match="needs gain"):
        window_mean(x)
    with pytest.raises(TypeError, match="takes x, gain by position, got 3"):
        window_mean(x, gain, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.randn(2, 3), torch.randn(3)), r"x must be \(B,T,D\)"),
        ((torch.randn(1, 2, 3), torch.randn(4)), "D is 4 in gain, and 3 before"),
        ((torch.ones(1, 2, 3, dtype=torch.int64), torch.randn(3)), "x must be floating-point"),
    ],
)
def test_calls_that_contradict_the_signature_are_refused(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        window_mean(*arguments)


def test_attributes_and_rules_are_checked() -> None:
    @operator("samples::Ruled", "x[B,T,D] -> y[B,T,D]", rules=[Rule("D % parts == 0", "{D} is not {parts} parts")])
    def ruled(x: Tensor, *, parts: int) -> Tensor:
        return x * parts

    with pytest.raises(ValueError, match="7 is not 2 parts"):
        ruled(torch.randn(1, 2, 7), parts=2)
    with pytest.raises(ValueError, match="span must be at least 1, got 0"):
        window_mean(torch.randn(1, 2, 3), torch.randn(3), span=0)


def test_what_a_function_returns_is_checked() -> None:
    wrong = operator("samples::WrongShape", "x[B,T,D] -> y[B,T,D]", lambda x: x[:, 1:])
    with pytest.raises(ValueError, match=r"returned y of shape \(1, 2, 2\); \(B,T,D\) is \(1, 3, 2\) here"):
        wrong(torch.randn(1, 3, 2))
    several = operator("samples::WrongCount", "x[B,T,D] -> y[B,T,D]", lambda x: (x, x))
    with pytest.raises(ValueError, match="must return 1 tensors, y; it returned a tuple of 2"):
        several(torch.randn(1, 3, 2))


def _unknown(x: Tensor, mode: str) -> Tensor:
    return x


def _variadic(x: Tensor, *more: int) -> Tensor:
    return x


def _swapped(gain: Tensor, x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("name", "signature", "function", "message"),
    [
        ("Mine", "x[B] -> y[B]", lambda x: x, "give it a domain of yours"),
        ("hsm::ShiftMix", "x[B] -> y[B]", lambda x: x, "hsm-export's own"),
        ("samples::A__b", "x[B] -> y[B]", lambda x: x, "single _"),
        ("samples::Bad", "x[B] -> y[C]", lambda x: x, r"no input has the outputs' dimensions \['C'\]"),
        ("samples::Bad", "x[B] -> y[B]", lambda: 1, "its function has no parameter x"),
        ("samples::Bad", "x[B] -> y[B]", lambda x, n: x, "parameter n has no annotation"),
        ("samples::Bad", "x[B] -> y[B]", _unknown, "annotation str; it is no input, so it is an attribute"),
        ("samples::Bad", "x[B] -> y[B]", _variadic, r"takes \*more"),
        ("samples::Bad", "x[B], gain[B] -> y[B]", _swapped, "takes gain, x, its signature x, gain"),
    ],
)
def test_definitions_that_contradict_themselves_are_refused(
    name: str, signature: str, function: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        operator(name, signature, function)
    assert find("samples", "Bad") is None


def test_a_definition_may_be_repeated_and_edited_but_not_doubled() -> None:
    def define(factor: int) -> Any:
        def times(x: Tensor) -> Tensor:
            return x * factor

        return operator("samples::Times", "x[B] -> y[B]", times)

    first = define(2)
    assert define(2) is first
    with pytest.raises(OperatorError, match="captures other values"):
        define(3)
    with pytest.raises(OperatorError, match="defined already"):
        operator("samples::Times", "x[B] -> y[B]", lambda x: x)


def test_a_written_specification_is_registered_with_its_function() -> None:
    from dataclasses import replace

    spec = replace(window_mean.operator, name="Registered", torch_name="registered")
    called = register(spec, window_mean.__wrapped__)
    x, gain = torch.randn(1, 4, 2), torch.randn(2)
    assert torch.equal(called(x, gain, span=2), window_mean(x, gain, span=2))
    with pytest.raises(OperatorError, match="other attributes"):
        register(replace(spec, attributes=(), lengths=()), window_mean.__wrapped__)
