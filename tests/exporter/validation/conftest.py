"""A small model without our operators, in PyTorch and as a hand-made ONNX file: validation must not need more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
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


@pytest.fixture
def tiny() -> TinyModel:
    torch.manual_seed(3)
    return TinyModel().eval()


@pytest.fixture
def to_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a TinyModel as an ONNX file."""

    def write(module: TinyModel, precision: str = "fp32", name: str = "tiny.onnx", **metadata: str) -> Path:
        path = tmp_path / name
        onnx.save(tiny_graph(module, precision, metadata), str(path))
        return path

    return write


def tiny_graph(module: TinyModel, precision: str, metadata: dict[str, str]) -> onnx.ModelProto:
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
