"""Largest numbers of windows with their places, as ONNX writes them.

ONNX counts places through the whole tensor, PyTorch within a channel. torch.onnx subtracts the places of a second
pooling, with windows of one element, which onnx's evaluator gets wrong; a remainder suits every evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def pooling_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return how torch's ONNX exporter writes the operators, as `custom_translation_table` takes it."""
    import torch

    aten: Any = torch.ops.aten
    return {
        aten.max_pool1d_with_indices.default: _of_rank(1),
        aten.max_pool2d_with_indices.default: _of_rank(2),
        aten.max_pool3d_with_indices.default: _of_rank(3),
    }


def _of_rank(rank: int) -> Callable[..., Any]:
    def translation(
        x: Any,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> tuple[Any, Any]:
        from onnxscript import opset18 as op

        def sizes(given: Sequence[int]) -> list[int]:
            return list(given) * (rank if len(given) == 1 else 1)

        batched = len(x.shape) == rank + 2
        rows = x if batched else op.Unsqueeze(x, [0])
        values, flat = op.MaxPool(
            rows,
            kernel_shape=sizes(kernel_size),
            strides=sizes(stride or kernel_size),
            pads=sizes(padding) * 2,
            dilations=sizes(dilation),
            ceil_mode=int(ceil_mode),
        )
        places = op.Mod(flat, op.ReduceProd(op.Shape(rows, start=2), keepdims=0))
        return (values, places) if batched else (op.Squeeze(values, [0]), op.Squeeze(places, [0]))

    return translation
