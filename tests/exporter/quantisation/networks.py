"""Small ONNX files whose weights can be quantised, made without an export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, WIDTH, HIDDEN = 48, 32, 72


def language_model(path: Path) -> Path:
    """Write tokens (B,T) -> logits (B,T,V): a table, whose product is tied to it, two products and a Gemm's bias."""
    generator = np.random.default_rng(0)
    weights = {
        "table": generator.standard_normal((VOCABULARY, WIDTH)),
        "up.T": generator.standard_normal((WIDTH, HIDDEN)) / WIDTH**0.5,
        "down.T": generator.standard_normal((HIDDEN, WIDTH)) / HIDDEN**0.5,
    }
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["x"], "rows"),
        helper.make_node("MatMul", ["x", "up.T"], ["wide"], "up"),
        helper.make_node("Tanh", ["wide"], ["bent"], "bend"),
        helper.make_node("MatMul", ["bent", "down.T"], ["narrow"], "down"),
        helper.make_node("Add", ["x", "narrow"], ["sum"], "sum"),
        helper.make_node("Transpose", ["table"], ["turned"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["sum", "turned"], ["logits"], "output"),
    ]
    return _save(
        path, nodes, weights, ("tokens", TensorProto.INT64, ["batch", "length"]), ["batch", "length", VOCABULARY]
    )


def classifier(path: Path) -> Path:
    """Write x (B,32) -> logits (B,10): two Gemms with a bias, one of them transposed."""
    generator = np.random.default_rng(1)
    weights = {
        "first": generator.standard_normal((HIDDEN, WIDTH)) / WIDTH**0.5,
        "first.bias": generator.standard_normal(HIDDEN),
        "second": generator.standard_normal((HIDDEN, 10)) / HIDDEN**0.5,
        "second.bias": generator.standard_normal(10),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "first", "first.bias"], ["wide"], "first", transB=1),
        helper.make_node("Relu", ["wide"], ["bent"], "bend"),
        helper.make_node("Gemm", ["bent", "second", "second.bias"], ["logits"], "second"),
    ]
    return _save(path, nodes, weights, ("x", TensorProto.FLOAT, ["batch", WIDTH]), ["batch", 10])


def experts(path: Path) -> Path:
    """Write x (B,T,32) -> y (B,T,32) through two products with the 2 best of 3 experts in each of 2 heads."""
    from hsm_operators import DOMAIN, VERSION, functions_for, make_node

    generator = np.random.default_rng(2)
    weights = {
        "router": generator.standard_normal((WIDTH, 6)) / WIDTH**0.5,
        "up": generator.standard_normal((2, 3, WIDTH, WIDTH)) / WIDTH**0.5,
        "down": generator.standard_normal((2, 3, WIDTH, WIDTH)) / WIDTH**0.5,
    }
    stored = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    stored.append(numpy_helper.from_array(np.array([0, 0, 2, 3]), "by_head"))
    nodes = [
        helper.make_node("MatMul", ["x", "router"], ["scores"], "scores"),
        helper.make_node("Reshape", ["scores", "by_head"], ["choice"], "choice"),
        make_node("ExpertMatMul", ["x", "choice", "up"], ["inner"], "up", k=2),
        make_node("ExpertMatMulSum", ["inner", "choice", "down"], ["y"], "down", k=2),
    ]
    shape = ["batch", "length", WIDTH]
    graph = helper.make_graph(
        nodes, "experts", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)], stored,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model.functions.extend(functions_for(model))
    onnx.save(model, path)
    return path


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    given: tuple[str, int, list[str | int]],
    result: list[str | int],
) -> Path:
    stored = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info(*given)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, result)], stored,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)
    return path
