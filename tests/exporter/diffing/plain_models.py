"""Small ONNX files made by hand, without a node of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hsm_export.runtimes.runtime import RunContext

NODE = helper.make_node


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    *,
    shape: Sequence[int | str] = ("n", 4),
    output: str = "y",
    output_shape: Sequence[int | str] | None = None,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Return a model with one input x and one output."""
    graph = helper.make_graph(
        list(nodes),
        "plain",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(output, kind, shape if output_shape is None else output_shape)],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def chain() -> onnx.ModelProto:
    """x (n,4) -> MatMul -> Tanh -> Mul by 3 -> y; a Transpose of a weight comes before the product."""
    weights = {
        "w": np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32),
        "three": np.float32([3.0]),
    }
    nodes = [
        NODE("Transpose", ["w"], ["wt"], "turn", perm=[1, 0]),
        NODE("MatMul", ["x", "wt"], ["a"], "product"),
        NODE("Tanh", ["a"], ["b"], "squash"),
        NODE("Mul", ["b", "three"], ["y"], "scale"),
    ]
    return model(nodes, weights)


def branching() -> onnx.ModelProto:
    """A chain, then an If whose branches capture tensors of the main graph, then a Scan that captures one too."""
    shape = ["n", 4]
    then = helper.make_graph(
        [NODE("Add", ["a", "bias"], ["then_y"], "inner")],
        "then",
        [],
        [helper.make_tensor_value_info("then_y", TensorProto.FLOAT, shape)],
    )
    other = helper.make_graph(
        [NODE("Sub", ["a", "bias"], ["else_y"], "inner")],
        "else",
        [],
        [helper.make_tensor_value_info("else_y", TensorProto.FLOAT, shape)],
    )
    body = helper.make_graph(
        [
            NODE("Add", ["sum_in", "row"], ["sum_out"]),
            NODE("Mul", ["sum_out", "mean"], ["row_out"]),
        ],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("sum_in", "row")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("sum_out", "row_out")],
    )
    nodes = [
        NODE("Tanh", ["x"], ["a"], "squash"),
        NODE("ReduceMean", ["x", "axes"], ["mean"], "mean", keepdims=0),
        NODE("ReduceMax", ["x"], ["top"], "top", keepdims=0),
        NODE("Greater", ["top", "zero"], ["positive"], "positive"),
        NODE("If", ["positive"], ["b"], "choice", then_branch=then, else_branch=other),
        NODE("Scan", ["start", "b"], ["last", "y"], "scan", body=body, num_scan_inputs=1),
    ]
    weights = {
        "axes": np.int64([0]),
        "zero": np.float32(0.0),
        "bias": np.float32([1.0, 2.0, 3.0, 4.0]),
        "start": np.zeros(4, np.float32),
    }
    return model(nodes, weights)


def context(proto: onnx.ModelProto, folder: Path, precision: str = "fp32") -> RunContext:
    """Return the run context of a model."""
    return RunContext(proto, folder, precision)


def rows(count: int = 5, seed: int = 1) -> dict[str, Any]:
    """Return an input x (count, 4)."""
    return {"x": np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)}
