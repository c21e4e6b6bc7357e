"""What the fused operators refuse: every misuse ends in an exception with a sentence, in a process that lives on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.exporter.runtimes.fused import Array, fused_session, needs_library
from tests.operators.harness import ANY_ATTRIBUTES, DTYPES, one_node_model
from tests.operators.inputs import SMALL

from hsm_operators import OPERATORS

pytestmark = needs_library

SIZES = {dim: size for case in SMALL.values() for dim, size in case.all_sizes.items()}
SIZES |= {"B": 2, "T": 4, "S": 4, "D": 6, "R": 9, "H": 2, "G": 1, "d": 3, "e": 7, "F": 10, "E": 4, "f": 5, "P": 11}
WHOLE: dict[str, Any] = {"tensor(int64)": np.int64, "tensor(uint8)": np.uint8}


def arrays(name: str, **sizes: int) -> dict[str, Array]:
    """Zeros of the right shapes, with some sizes changed; all rows have one token."""
    sizes = {**SIZES, **sizes}
    return {
        value.name: np.ones([sizes[dim] for dim in value.shape], WHOLE[value.type])
        if value.type in WHOLE
        else np.zeros([sizes[dim] for dim in value.shape], np.float32)
        for value in OPERATORS[name].inputs
    }


def refusal(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> str:
    """Load and run a model that must be refused; return the exception's text."""
    with pytest.raises(Exception) as error:
        fused_session(model).run(None, dict(inputs))
    return str(error.value)


def with_attribute(name: str, attribute: str, value: Any) -> onnx.ModelProto:
    """Return a model whose node has another value of one attribute, or lacks it when `value` is None."""
    model = one_node_model(name, ANY_ATTRIBUTES[name])
    node = model.graph.node[0]
    kept = [item for item in node.attribute if item.name != attribute]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(attribute, value))
    return model


BAD_ATTRIBUTES = [
    ("shifts", None, "shifts is missing or is not a list of integers"),
    ("shifts", 3, "shifts must be a list of at least one integer"),
    ("shifts", [1.5], "shifts must be a list of at least one integer"),
    ("k", None, "k is missing or is not an integer"),
    ("k", [1, 2], "k is missing or is not an integer"),
    ("k", 0, "k must be at least 1, got 0"),
    ("k", -(2**63), "k must be at least 1, got -9223372036854775808"),
    ("normalize", None, "normalize is missing or is not an integer"),
    ("normalize", 7, "normalize must be 0 or 1, got 7"),
    ("normalize", "yes", "normalize is missing or is not an integer"),
    ("output_norm", -1, "output_norm must be 0 or 1, got -1"),
]


@pytest.mark.parametrize(("attribute", "value", "sentence"), BAD_ATTRIBUTES)
def test_attributes(attribute: str, value: Any, sentence: str) -> None:
    for name, attributes in ANY_ATTRIBUTES.items():
        if attribute in attributes:
            assert f"{name}: attribute {sentence}" in refusal(with_attribute(name, attribute, value), arrays(name))


@pytest.mark.parametrize("name", ["TokenShiftCached", "ShiftMixCached"])
def test_a_ring_holds_only_the_past(name: str) -> None:
    model = with_attribute(name, "shifts", [1, -4])
    assert f"{name}: attribute shifts must be at least 0, got -4" in refusal(model, arrays(name))


BAD_SIZES = [
    ("TokenShift", {"D": 7}, "width D = 7 does not split into 3 equal groups"),
    ("ShiftMix", {"D": 1}, "width D = 1 does not split"),
    ("TokenShiftCached", {"R": 4}, "the ring holds R = 4 rows, fewer than the largest shift 5"),
    ("ShiftMixCached", {"R": 0}, "rows of the ring R must be at least 1, got 0"),
    ("TaylorShift", {"d": 0}, "head width d must be from 1 to 2^20, got 0"),
    ("TaylorShiftMasked", {"e": 0}, "value width e must be from 1 to 2^20, got 0"),
    ("CausalTaylorShift", {"F": 11}, "state has F = 11 features, but head width d = 3 needs"),
    ("ExpertMatMul", {"E": 1}, "k = 2 exceeds the number of experts E = 1"),
    ("ExpertMatMulSum", {"E": 0}, "k = 2 exceeds the number of experts E = 0"),
]


@pytest.mark.parametrize(("name", "sizes", "sentence"), BAD_SIZES)
def test_sizes(name: str, sizes: dict[str, int], sentence: str) -> None:
    for static in ({}, {**SIZES, **sizes}):
        model = one_node_model(name, ANY_ATTRIBUTES[name], sizes=static)
        assert f"{name}: {sentence}" in refusal(model, arrays(name, **sizes))


PORTS = [(name, value.name) for name, operator in OPERATORS.items() for value in operator.inputs]


@pytest.mark.parametrize(("name", "port"), PORTS)
def test_every_input_of_a_wrong_rank_or_size(name: str, port: str) -> None:
    model = one_node_model(name, ANY_ATTRIBUTES[name])
    (value,) = (value for value in model.graph.input if value.name == port)
    value.type.tensor_type.ClearField("shape")
    session = fused_session(model)
    good = arrays(name)
    for shape in ((), (2,) * 6, *([2, 2, 2][:rank] for rank in (1, 2, 3) if rank != good[port].ndim)):
        with pytest.raises(Exception, match=rf"{name}: input {port} must have {good[port].ndim} dimensions"):
            session.run(None, {**good, port: np.zeros(shape, good[port].dtype)})
    for axis in range(good[port].ndim):
        wrong = np.zeros([size + 17 * (axis == index) for index, size in enumerate(good[port].shape)], good[port].dtype)
        if _alone(name, port, axis):
            continue
        with pytest.raises(Exception, match=rf"{name}: "):
            session.run(None, {**good, port: wrong})


def _alone(name: str, port: str, axis: int) -> bool:
    """No other input has this dimension, and no attribute restricts it (17 more of these still fit)."""
    letters = {value.name: value.shape for value in OPERATORS[name].inputs}
    letter = letters[port][axis]
    others = [shape for key, shape in letters.items() if key != port]
    return not any(letter in shape for shape in others) and not (letter == "D" and "shifts" in ANY_ATTRIBUTES[name])


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.INT32, TensorProto.STRING])
@pytest.mark.parametrize("name", OPERATORS)
def test_types_that_no_kernel_takes(name: str, kind: int) -> None:
    model = one_node_model(name, ANY_ATTRIBUTES[name])
    for value, declared in zip(OPERATORS[name].inputs, model.graph.input, strict=True):
        if value.type == "T":
            declared.type.tensor_type.elem_type = kind
    del model.functions[:]
    assert re.search(r"type|Type", refusal(model, arrays(name)))


@pytest.mark.parametrize(("name", "port"), [item for item in PORTS if item[0] != "TokenShift"])
def test_types_that_do_not_belong_together(name: str, port: str) -> None:
    model = one_node_model(name, ANY_ATTRIBUTES[name], DTYPES[0])
    (value,) = (value for value in model.graph.input if value.name == port)
    value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.functions[:]
    inputs = arrays(name)
    assert re.search(r"type|Type", refusal(model, {**inputs, port: inputs[port].astype(np.float16)}))


ROWS = [
    ({"lengths": [1, 5]}, "input lengths is 5 in row 1, but must be from"),
    ({"lengths": [-1, 1]}, "input lengths is -1 in row 0"),
    ({"lengths": [2**62, 1]}, "input lengths is 4611686018427387904 in row 0"),
    ({"position": [0, -1]}, "input position is -1 in row 1"),
    ({"position": [2**63 - 1, 0]}, "input position is 9223372036854775807 in row 0"),
]


WITH_ROWS = [(name, *item) for name in OPERATORS for item in ROWS if set(item[0]) <= set(arrays(name))]


@pytest.mark.parametrize(("name", "rows", "sentence"), WITH_ROWS)
def test_rows_outside_the_buffers(name: str, rows: dict[str, list[int]], sentence: str) -> None:
    inputs = arrays(name) | {key: np.asarray(values) for key, values in rows.items()}
    model = one_node_model(name, ANY_ATTRIBUTES[name])
    assert f"{name}: {sentence}" in refusal(model, inputs)


def test_an_idle_row_may_have_any_position() -> None:
    inputs = {**arrays("TokenShiftCached"), "position": np.array([-(2**63), 2**63 - 1]), "lengths": np.zeros(2, int)}
    inputs["ring"] = np.random.default_rng(0).standard_normal(inputs["ring"].shape).astype(np.float32)
    outputs = fused_session(one_node_model("TokenShiftCached", ANY_ATTRIBUTES["TokenShiftCached"])).run(None, inputs)
    np.testing.assert_array_equal(outputs[1], inputs["ring"])


def test_shifts_beyond_every_length() -> None:
    model = one_node_model("TokenShift", {"shifts": [2**63 - 1, 1, -(2**63)]})
    x = np.ones((1, 3, 3), np.float32)
    assert fused_session(model).run(None, {"x": x})[0].tolist() == [[[0, 0, 0], [0, 1, 0], [0, 1, 0]]]


def test_a_session_works_after_a_refusal() -> None:
    session = fused_session(one_node_model("ExpertMatMul", {"k": 2}))
    good, bad = arrays("ExpertMatMul"), arrays("ExpertMatMul", E=1)
    before = session.run(None, good)
    with pytest.raises(Exception, match="exceeds"):
        session.run(None, bad)
    np.testing.assert_array_equal(session.run(None, good)[0], before[0])
