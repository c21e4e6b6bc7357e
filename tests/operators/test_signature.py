"""The one-line signature: what it says, and what it refuses."""

from __future__ import annotations

import pytest

from hsm_operators import OperatorError, Port, RowRange, Rule, State
from hsm_operators.signature import parse


def test_ports_have_names_types_and_dimensions() -> None:
    signature = parse("x[B,T,D], gain[ D ], mask: bool[B,T], a: float32[] -> y[B,T,D]", {"x": "Tokens."})
    assert signature.inputs == [
        Port("x", "T", ("B", "T", "D"), "Tokens."),
        Port("gain", "T", ("D",)),
        Port("mask", "tensor(bool)", ("B", "T")),
        Port("a", "tensor(float)", ()),
    ]
    assert signature.outputs == [Port("y", "T", ("B", "T", "D"))]
    assert not signature.states and not signature.rules


def test_an_output_that_is_an_input_is_a_state() -> None:
    signature = parse("x[B,T], s: float32[B,K] -> y[B,T], s", {"s_out": "The sums."})
    assert signature.states == [State("s", "s_out")]
    assert signature.outputs[1] == Port("s_out", "tensor(float)", ("B", "K"), "The sums.")


def test_a_dimension_may_say_how_large_it_is() -> None:
    signature = parse("w[D,K=3], s[B,R=max(K, 2) - 1,D] -> y[B,D]")
    assert [port.shape for port in signature.inputs] == [("D", "K"), ("B", "R", "D")]
    assert signature.rules == [
        Rule("K == 3", "K = {K} must be 3 = {3}"),
        Rule("R == max(K, 2) - 1", "R = {R} must be max(K, 2) - 1 = {max(K, 2) - 1}"),
    ]


def test_an_integer_has_a_range() -> None:
    (port,) = parse("lengths: int64[B] in 0..T -> lengths").inputs
    assert port.rows == RowRange("0", "T", "from 0 to T = {T}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x[B]", "is not a signature"),
        ("-> y[B]", "is not a signature"),
        ("x -> y[B]", "'x' in 'x -> y\\[B\\]' is no port"),
        ("x[B,3] -> y[B]", "dimension '3', which is no name; name it"),
        ("x: half[B] -> y[B]", "has the type half; types are T, float32, int64, bool, uint8"),
        ("x[B] in 0..1 -> y[B]", "only int64 inputs have one"),
        ("n: int64[B] in 0..import -> y[B]", "is not an expression"),
        ("x[B,R=f(2)] -> y[B]", "not part of the language"),
        ("x[B -> y[B]", "no port"),
    ],
)
def test_what_is_no_signature_is_refused(text: str, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        parse(text)


def test_descriptions_must_be_of_ports() -> None:
    with pytest.raises(OperatorError, match="descriptions of z"):
        parse("x[B] -> y[B]", {"z": "Nothing."})
