"""What bodies must be for runtimes of all kinds and ages to run them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from hsm_operators import IR_VERSION, OPERATORS, OPSET_VERSION, Operator, make_node

BODIES = [operator for operator in OPERATORS.values() if operator.body]
WIDTHS = {"q": 5, "k": 5, "v": 4}
LOOP_FREE = [operator for operator in BODIES if operator.loop_free_body]


def inner(nodes: Iterator[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from inner(iter(attribute.g.node))


@pytest.mark.parametrize("operator", BODIES, ids=lambda operator: operator.name)
def test_nodes_have_names_and_constants_are_tensors(operator: Operator) -> None:
    nodes = list(inner(iter(operator.function().node)))
    names = [node.name for node in nodes]
    assert all(names) and len(set(names)) == len(names)
    constants = [attribute for node in nodes if node.op_type == "Constant" for attribute in node.attribute]
    # What stands for an attribute of the node cannot be a tensor.
    assert {attribute.name for attribute in constants if not attribute.ref_attr_name} <= {"value"}
    # MNN ignores axes that are an input of this one.
    assert "ReduceL2" not in {node.op_type for node in nodes}


@pytest.mark.parametrize("operator", BODIES, ids=lambda operator: operator.name)
def test_inner_graphs_say_types_and_ranks(operator: Operator) -> None:
    for node in operator.function().node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                for value in (*attribute.g.input, *attribute.g.output):
                    assert value.type.tensor_type.elem_type and value.type.tensor_type.HasField("shape"), value.name


def run(operator: Operator, inputs: dict[str, np.ndarray], loop_free: bool) -> list[np.ndarray]:
    value = onnx.helper.make_tensor_value_info
    kind = onnx.helper.np_dtype_to_tensor_dtype
    outputs = [port.name for port in operator.outputs]
    attributes = {attribute.name: 1 for attribute in operator.attributes}
    graph = onnx.helper.make_graph(
        [make_node(operator.name, list(inputs), outputs, **attributes)],
        "g",
        [value(name, kind(array.dtype), [None] * array.ndim) for name, array in inputs.items()],
        [value(name, onnx.TensorProto.FLOAT, None) for name in outputs],
    )
    opsets = [onnx.helper.make_opsetid("", OPSET_VERSION), onnx.helper.make_opsetid(operator.domain, operator.version)]
    functions = [operator.function(loop_free=loop_free)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=IR_VERSION)
    found: list[np.ndarray] = ReferenceEvaluator(model).run(None, inputs)
    return found


def test_there_are_loop_free_bodies() -> None:
    assert "CausalTaylorShift" in {operator.name for operator in LOOP_FREE}
    assert not {node.op_type for o in LOOP_FREE for node in o.function(loop_free=True).node} & {"Scan", "Loop"}


@pytest.mark.parametrize("length", [1, 127, 128, 129, 300])
def test_causal_taylor_shift_without_a_loop(length: int) -> None:
    operator, rng = OPERATORS["CausalTaylorShift"], np.random.default_rng(length)
    features = 1 + 5 + 15
    inputs = {
        **{name: rng.standard_normal((2, length, 3, width)).astype(np.float32) for name, width in WIDTHS.items()},
        "temperature": rng.uniform(0.5, 2, 3).astype(np.float32),
        "state": rng.standard_normal((2, 3, features, 4)).astype(np.float32),
        "norm": rng.uniform(1, 2, (2, 3, features)).astype(np.float32),
        "lengths": np.array([length, length // 2]),
    }
    both = zip(run(operator, inputs, False), run(operator, inputs, True), strict=True)
    for place, (looped, free) in enumerate(both):
        if place == 0:  # what stands beyond a row's length means nothing
            looped, free = (array[np.arange(length) < inputs["lengths"][:, None]] for array in (looped, free))
        # The same sums, chunk by chunk in the same order.
        np.testing.assert_allclose(free, looped, rtol=1e-5, atol=1e-5 * np.abs(looped).max())
