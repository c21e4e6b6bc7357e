"""Runs one operator at a time: as a model of one node with its body, and as the PyTorch operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from tests.operators.inputs import attributes_of

from hsm_operators import DOMAIN, OPERATORS, OPSET_VERSION, VERSION, Port, make_node, testing
from hsm_operators.testing import implementations
from hsm_operators.testing.implementations import DTYPES as DTYPES
from hsm_operators.testing.implementations import NUMPY_TYPES as NUMPY_TYPES

Array = npt.NDArray[Any]
Attributes = Mapping[str, int | list[int]]

ONNX_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

# Attributes for tests that are not about the values of attributes.
ANY_ATTRIBUTES: dict[str, dict[str, int | list[int]]] = {name: attributes_of(name) for name in OPERATORS}


def element_type(value: Port, dtype: str) -> int:
    """ONNX element type of an input or output when T is `dtype`."""
    fixed = {"tensor(float)": TensorProto.FLOAT, "tensor(int64)": TensorProto.INT64, "tensor(uint8)": TensorProto.UINT8}
    return ONNX_TYPES[dtype] if value.type == "T" else fixed[value.type]


def one_node_model(
    name: str, attributes: Attributes, dtype: str = "fp32", sizes: Mapping[str, int] | None = None
) -> onnx.ModelProto:
    """Return a model of one node with its body; dimensions are dynamic unless `sizes` has them."""
    operator, sizes = OPERATORS[name], sizes or {}
    border = {
        value.name: helper.make_tensor_value_info(
            value.name, element_type(value, dtype), [sizes.get(dim, dim) for dim in value.shape]
        )
        for value in (*operator.inputs, *operator.outputs)
    }
    inputs, outputs = [v.name for v in operator.inputs], [v.name for v in operator.outputs]
    node = make_node(name, inputs, outputs, "node", **attributes)
    graph = helper.make_graph([node], "graph", [border[n] for n in inputs], [border[n] for n in outputs])
    return as_model(graph, name)


def as_model(graph: onnx.GraphProto, *names: str) -> onnx.ModelProto:
    """Return a model with the bodies of the named operators."""
    return helper.make_model(
        graph,
        functions=[OPERATORS[name].function() for name in names],
        opset_imports=[helper.make_opsetid("", OPSET_VERSION), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )


def float32_border(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put Casts around a copy of a one-node model, because NumPy and ONNX Runtime do not exchange bfloat16."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    node = graph.node[0]
    before, after = [], []
    for index, value in enumerate(graph.input):
        if value.type.tensor_type.elem_type not in (TensorProto.INT64, TensorProto.UINT8):
            cast_to = value.type.tensor_type.elem_type
            before.append(helper.make_node("Cast", [value.name], [f"{value.name}_typed"], to=cast_to))
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            node.input[index] = f"{value.name}_typed"
    for index, value in enumerate(graph.output):
        after.append(helper.make_node("Cast", [f"{value.name}_typed"], [value.name], to=TensorProto.FLOAT))
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        node.output[index] = f"{value.name}_typed"
    nodes = [*before, node, *after]
    kept = [onnx.NodeProto.FromString(item.SerializeToString()) for item in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return model


def rounded(name: str, inputs: Mapping[str, Array], dtype: str) -> dict[str, Array]:
    """Round the inputs of type T to `dtype`, and other floats to float32; all floats come back as float64."""
    return testing.rounded(testing.Subject.own(name), inputs, dtype)


def run_onnx_runtime(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: list[Array] = session.run(None, _float32(inputs))
    return result


def run_reference(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        result: list[Array] = ReferenceEvaluator(model).run(None, _float32(inputs))
    return result


def _float32(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array if array.dtype.kind in "iu" else array.astype(np.float32) for name, array in inputs.items()}


def run_torch(
    name: str, attributes: Attributes, inputs: Mapping[str, Array], dtype: str, **options: str
) -> list[Array]:
    """Run the PyTorch operator natively in `dtype`; `options` are arguments that the opset does not have."""
    return implementations.run_torch(OPERATORS[name], inputs, attributes, dtype, **options)
