"""A small model without our operators, in PyTorch and as a hand-made ONNX file: validation must not need more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

VOCABULARY, WIDTH, HIDDEN = 23, 16, 32
NUMPY_TYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


class TinyModel(nn.Module):
    """tokens (B,T) -> logits (B,T,V) in float32, or float64 at double precision; no mixer at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        y = self.down(nn.functional.gelu(self.up(self.norm(self.embedding(tokens)))))
        return y if y.dtype == torch.float64 else y.float()


def tiny_model() -> TinyModel:
    """Return the model with weights that are always the same."""
    torch.manual_seed(3)
    return TinyModel().eval()


def write_tiny(module: TinyModel, path: Path, precision: str = "fp32", **metadata: str) -> Path:
    """Write the model as an ONNX file with `hsm_export.` metadata; return the path."""
    onnx.save(_graph(module, precision, metadata), str(path))
    return path


def change_weight(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Plant a fault: rewrite one initialiser of a file."""
    model = onnx.load(str(path))
    tensor = next(item for item in model.graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    onnx.save(model, str(path))


def flip_largest(array: np.ndarray) -> np.ndarray:
    """Give the largest weight the wrong sign."""
    array[np.unravel_index(np.abs(array.astype(np.float32)).argmax(), array.shape)] *= -1
    return array


def plant_nan(array: np.ndarray) -> np.ndarray:
    """Make one weight NaN."""
    array.flat[1] = np.nan
    return array


def _graph(module: TinyModel, precision: str, metadata: dict[str, str]) -> onnx.ModelProto:
    weights = {
        "embedding": module.embedding.weight,
        "scale": module.norm.weight,
        "shift": module.norm.bias,
        "up": module.up.weight.T,
        "down": module.down.weight.T,
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "tokens"], ["x0"], "embedding"),
        helper.make_node("LayerNormalization", ["x0", "scale", "shift"], ["x1"], "norm", epsilon=1e-5),
        helper.make_node("MatMul", ["x1", "up"], ["x2"], "up"),
        helper.make_node("Gelu", ["x2"], ["x3"], "gelu"),
        helper.make_node("MatMul", ["x3", "down"], ["x4"], "down"),
        helper.make_node("Cast", ["x4"], ["logits"], "to_float", to=TensorProto.FLOAT),
    ]
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(w.detach().numpy().astype(NUMPY_TYPES[precision])), name)
        for name, w in weights.items()
    ]
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", VOCABULARY])
    graph = helper.make_graph(nodes, "tiny", [tokens], [logits], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    for key, value in metadata.items():
        model.metadata_props.add(key=f"hsm_export.{key}", value=value)
    return model
