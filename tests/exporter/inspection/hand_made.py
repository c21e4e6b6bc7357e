"""Small ONNX files with bodies, written node by node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hsm_operators import DOMAIN, VERSION, functions_for


def weights(name: str, *shape: int, dtype: Any = np.float32) -> TensorProto:
    """A random tensor."""
    return numpy_helper.from_array(np.random.default_rng(0).standard_normal(shape).astype(dtype), name)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[Any, ...]],
    outputs: list[str],
    initializers: list[TensorProto] | None = None,
    metadata: dict[str, str] | None = None,
    element_type: int = TensorProto.FLOAT,
) -> Path:
    """Write a model of these nodes, with the bodies of its hsm operators."""
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name == "lengths" else element_type, shape)
            for name, shape in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        initializers or [],
    )
    for value in graph.output:
        value.type.tensor_type.elem_type = element_type
    opsets = [helper.make_opsetid(*opset) for opset in (("", 21), (DOMAIN, VERSION), ("other", 1))]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="test")
    model.functions.extend(functions_for(model))
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=f"hsm_export.{key}", value=value)
    onnx.save(model, path)
    return path
