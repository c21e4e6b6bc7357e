"""Small ONNX models written by hand, in standard operators only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ELEMENT_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
VOCABULARY, WIDTH = 32, 16


def token_model(
    path: Path,
    *,
    precision: str = "fp32",
    product: bool = True,
    shape: tuple[int | str | None, ...] = ("batch", "length"),
    max_length: int = 0,
    operator: str = "MatMul",
    external: bool = False,
) -> Path:
    """Write `tokens -> logits`: an embedding, a scale, and (`product`) one product with a matrix.

    `operator` makes that product; `acme::…` is one that nobody knows.
    """
    dtype = ELEMENT_TYPES[precision]
    rng = np.random.default_rng(20)

    def weight(name: str, *sizes: int) -> onnx.TensorProto:
        array = rng.standard_normal(sizes).astype(helper.tensor_dtype_to_np_dtype(dtype))
        return numpy_helper.from_array(array, name)

    nodes = [
        helper.make_node("Gather", ["embedding", "tokens"], ["x"], name="embedding.lookup"),
        helper.make_node("Mul", ["x", "scale"], ["y" if product else "logits"], name="layers.0.scale"),
    ]
    if product:
        domain, _, name = operator.rpartition("::")
        product_node = helper.make_node(name, ["y", "output.weight"], ["logits"], "output.product", domain=domain)
        nodes.append(product_node)
    graph = helper.make_graph(
        nodes,
        "hand_made",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("logits", dtype, (*shape, WIDTH))],
        [weight("embedding", VOCABULARY, WIDTH), weight("scale", WIDTH), weight("output.weight", WIDTH, WIDTH)],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("acme", 1)], ir_version=10
    )
    config = {"max_length": max_length}
    helper.set_model_props(
        model, {"hsm_export.config": json.dumps(config), "hsm_export.precision": precision, "other.tool": "x"}
    )
    onnx.save(
        model,
        path,
        save_as_external_data=external,
        location=f"{path.name}.data" if external else None,
        size_threshold=0,
    )
    return path
