"""A hand-made model with expert operators: tokens -> embedding -> ExpertMatMul -> ExpertMatMulSum -> logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hsm_operators import functions_for, make_node

VOCABULARY, WIDTH, HEADS, EXPERTS, INNER, ACTIVE = 40, 16, 2, 4, 8, 2
NODES = ("layers.0.source", "layers.0.destination")


def write_routed(path: Path, precision: str = "fp32", seed: int = 5, spread: float = 1.0) -> Path:
    """Write the model; `spread` scales the routers' weights, so a small one makes near ties."""
    rng = np.random.default_rng(seed)
    dtype = {"fp32": np.float32, "fp16": np.float16}[precision]
    router = rng.standard_normal((2, WIDTH, HEADS * EXPERTS)) * spread
    weights = {
        "embedding": rng.standard_normal((VOCABULARY, WIDTH)).astype(dtype),
        "sel_v": router[0].astype(np.float32),
        "sel_o": router[1].astype(np.float32),
        "v": (rng.standard_normal((HEADS, EXPERTS, WIDTH, INNER)) * 0.3).astype(dtype),
        "o": (rng.standard_normal((HEADS, EXPERTS, INNER, WIDTH)) * 0.3).astype(dtype),
        "head": rng.standard_normal((WIDTH, VOCABULARY)).astype(dtype),
        "split": np.array([0, 0, HEADS, EXPERTS]),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "tokens"], ["x"]),
        helper.make_node("Cast", ["x"], ["xf"], to=TensorProto.FLOAT),
        *_router("sel_v", "xf", "l0"),
        make_node("ExpertMatMul", ["x", "l0", "v"], ["value"], NODES[0], k=ACTIVE),
        *_router("sel_o", "xf", "l1"),
        make_node("ExpertMatMulSum", ["value", "l1", "o"], ["mixed"], NODES[1], k=ACTIVE),
        helper.make_node("Add", ["x", "mixed"], ["sum"]),
        helper.make_node("MatMul", ["sum", "head"], ["low"]),
        helper.make_node("Cast", ["low"], ["logits"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "routed",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", VOCABULARY])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("hsm", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    model.functions.extend(functions_for(model))
    onnx.save(model, str(path))
    return path


def _router(weight: str, x: str, logits: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", [x, weight], [f"{logits}_flat"]),
        helper.make_node("Reshape", [f"{logits}_flat", "split"], [logits]),
    ]
