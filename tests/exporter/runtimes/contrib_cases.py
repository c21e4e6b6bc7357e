"""One call of each operator of ONNX Runtime's own that is defined here: nodes, inputs and constants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = Any
rng = np.random.default_rng(5)


def f32(*shape: int) -> Array:
    """Random numbers."""
    return rng.standard_normal(shape).astype(np.float32)


def u8(*shape: int) -> Array:
    """Random bytes."""
    return rng.integers(0, 256, shape).astype(np.uint8)


class Call:
    """One node: inputs in order, None for those left out; names starting with "w" are constants."""

    def __init__(self, operator: str, inputs: dict[str, Array | None], outputs: int = 1, domain: str = "com.microsoft",
                 **attributes: Any) -> None:  # fmt: skip
        self.operator, self.inputs, self.outputs, self.domain = operator, inputs, outputs, domain
        self.attributes = attributes

    def save(self, folder: Path) -> tuple[Path, dict[str, Array]]:
        """Write a file with that node, and return it with the arrays to feed."""
        known = {name: array for name, array in self.inputs.items() if array is not None}
        names = [name if array is not None else "" for name, array in self.inputs.items()]
        results = [f"y{place}" for place in range(self.outputs)]
        node = helper.make_node(self.operator, names, results, "node", domain=self.domain, **self.attributes)
        fed = {name: array for name, array in known.items() if not name.startswith("w")}
        values = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in fed.items()
        ]
        weights = [numpy_helper.from_array(array, name) for name, array in known.items() if name not in fed]
        graph = helper.make_graph([node], "g", values, [onnx.ValueInfoProto(name=name) for name in results], weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        path = folder / f"{self.operator}.onnx"
        onnx.save(model, str(path))
        return path, fed


def table(length: int, size: int) -> tuple[Array, Array]:
    """Cosines and sines of rotary positions."""
    angles = np.arange(length)[:, None] / 100 ** (np.arange(size) / size)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def grouped(length: int, past: int, **more: Any) -> Call:
    """GroupQueryAttention of 4 heads that share 2, of 16 numbers each, for 2 rows."""
    cos, sin = table(32, 8)
    rotary = bool(more.get("do_rotary"))
    inputs = {
        "q": f32(2, length, 64), "k": f32(2, length, 32), "v": f32(2, length, 32),
        "past_k": f32(2, 2, past, 16), "past_v": f32(2, 2, past, 16),
        "seqlens": np.full(2, past + length - 1, np.int32), "wtotal": np.int32(past + length),
        "wcos": cos if rotary else None, "wsin": sin if rotary else None,
    }  # fmt: skip
    return Call("GroupQueryAttention", inputs, 3, num_heads=4, kv_num_heads=2, **more)


def quantised(operator: str, count: int, **attributes: Any) -> Call:
    """An operator on bytes."""
    inputs: dict[str, Array] = {}
    for place in range(count):
        inputs |= {
            f"x{place}": u8(3, 8, 5, 5),
            f"ws{place}": np.float32(0.02 + place / 100),
            f"wz{place}": np.uint8(120),
        }
    return Call(operator, inputs | {"wys": np.float32(0.031), "wyz": np.uint8(100)}, **attributes)


def nbits(bits: int, zeros: bool, **attributes: Any) -> Call:
    """MatMulNBits of 64 inputs and 24 outputs in blocks of 32."""
    inputs = {"a": f32(3, 64), "wb": u8(24, 2, 32 * bits // 8), "ws": np.abs(f32(24, 2)) / 10}
    if zeros:
        inputs["wz"] = u8(24, -(-2 * bits // 8))
    return Call("MatMulNBits", inputs, K=64, N=24, bits=bits, block_size=32, **attributes)


def calls() -> Iterator[tuple[str, Callable[[], Call]]]:
    """Yield a name and what makes the call."""
    cos, sin = table(32, 8)
    width, heads = 32, {"num_heads": 4}
    norm = {"x": f32(2, 5, width), "s": f32(2, 5, width), "wg": f32(width)}
    qkv = {"q": f32(2, 5, width), "k": f32(2, 7, width), "v": f32(2, 7, width)}
    linear = {"q": f32(2, 5, width), "k": f32(2, 5, width) / 3, "v": f32(2, 5, width), "state": f32(2, 4, 8, 8)}
    gates = {"d": -np.abs(f32(2, 5, 4)), "b": np.abs(f32(2, 5, 4)) / 3}
    everything = {
        "FusedMatMul": lambda: Call("FusedMatMul", {"a": f32(3, 8, 4), "wb": f32(8, 6)}, transA=1, alpha=0.5),
        "Gelu": lambda: Call("Gelu", {"x": f32(4, width)}),
        "BiasGelu": lambda: Call("BiasGelu", {"x": f32(4, width), "wb": f32(width)}),
        "FastGelu": lambda: Call("FastGelu", {"x": f32(4, width), "wb": f32(width)}),
        "QuickGelu": lambda: Call("QuickGelu", {"x": f32(4, width)}, alpha=1.5),
        "SkipLayerNormalization": lambda: Call(
            "SkipLayerNormalization", norm | {"wb": f32(width), "wc": f32(width)}, epsilon=1e-5
        ),
        "SkipSimplifiedLayerNormalization": lambda: Call("SkipSimplifiedLayerNormalization", norm, epsilon=1e-5),
        "SimplifiedLayerNormalization": lambda: Call(
            "SimplifiedLayerNormalization", {"x": f32(2, 5, width), "wg": f32(width)}, domain="", axis=-1, epsilon=1e-5
        ),
        "RotaryEmbedding": lambda: Call(
            "RotaryEmbedding", {"x": f32(2, 5, 64), "p": rng.integers(0, 32, (2, 5)), "wc": cos, "ws": sin}
        ),
        "RotaryEmbedding interleaved": lambda: Call(
            "RotaryEmbedding", {"x": f32(2, 4, 5, 16), "p": np.int64([3]), "wc": cos, "ws": sin}, interleaved=1
        ),
        "Attention": lambda: Call(
            "Attention", {"x": f32(2, 5, width), "ww": f32(width, 96) / 5, "wb": f32(96)}, unidirectional=1, **heads
        ),
        "Attention masked": lambda: Call(
            "Attention",
            {"x": f32(2, 5, width), "ww": f32(width, 96) / 5, "wb": f32(96),
             "m": np.int32([[1] * 5, [1] * 3 + [0] * 2])},
            **heads
        ),
        "MultiHeadAttention": lambda: Call("MultiHeadAttention", qkv, **heads),
        "MultiHeadAttention masked": lambda: Call(
            "MultiHeadAttention",
            qkv | {"wb": f32(3 * width), "m": np.int32([[1] * 7, [1] * 4 + [0] * 3]), "a": f32(1, 4, 5, 7)}, **heads
        ),
        "MultiHeadAttention past": lambda: Call(
            "MultiHeadAttention",
            {"q": f32(2, 1, width), "k": f32(2, 1, width), "v": f32(2, 1, width), "wb": None, "wm": None, "wa": None,
             "pk": f32(2, 4, 6, 8), "pv": f32(2, 4, 6, 8)}, 3, unidirectional=1, **heads
        ),
        "GroupQueryAttention prompt": lambda: grouped(5, 0),
        "GroupQueryAttention step": lambda: grouped(1, 7),
        "GroupQueryAttention rotary": lambda: grouped(1, 7, do_rotary=1),
        "GroupQueryAttention window": lambda: grouped(6, 0, do_rotary=1, local_window_size=3, rotary_interleaved=1),
        "GroupQueryAttention softcap": lambda: grouped(1, 7, softcap=2.0, scale=0.3),
        "LinearAttention linear": lambda: Call(
            "LinearAttention", linear, 2, q_num_heads=4, kv_num_heads=4, update_rule="linear"
        ),
        "LinearAttention gated delta": lambda: Call(
            "LinearAttention", linear | gates, 2, q_num_heads=4, kv_num_heads=4, update_rule="gated_delta"
        ),
        "CausalConvWithState": lambda: Call(
            "CausalConvWithState",
            {"x": f32(2, 6, 5), "ww": f32(6, 1, 4), "wb": f32(6), "past": f32(2, 6, 3)}, 2, activation="silu"
        ),
        "QLinearAdd": lambda: quantised("QLinearAdd", 2),
        "QLinearMul": lambda: quantised("QLinearMul", 2),
        "QLinearSigmoid": lambda: quantised("QLinearSigmoid", 1),
        "QLinearLeakyRelu": lambda: quantised("QLinearLeakyRelu", 1, alpha=0.1),
        "QLinearGlobalAveragePool": lambda: quantised("QLinearGlobalAveragePool", 1),
        "QLinearSoftmax": lambda: Call(  # the kernel rounds 1/scale to an integer
            "QLinearSoftmax",
            {"x": u8(3, 8), "ws": np.float32(0.02), "wz": np.uint8(120), "wys": np.float32(1 / 256),
             "wyz": np.uint8(0)},
            opset=13, axis=-1
        ),
        "QLinearConcat": lambda: Call(
            "QLinearConcat",
            {"wys": np.float32(0.05), "wyz": np.uint8(128), "x0": u8(2, 5), "ws0": np.float32(0.02), "wz0": np.uint8(3),
             "x1": u8(2, 7), "ws1": np.float32(0.1), "wz1": np.uint8(128)}, axis=1
        ),
        "MatMulIntegerToFloat": lambda: Call(
            "MatMulIntegerToFloat",
            {"a": u8(3, 16), "wb": u8(16, 6), "was": np.float32(0.02), "wbs": np.abs(f32(6)) / 50, "waz": np.uint8(100),
             "wbz": u8(6), "wc": f32(6)}
        ),
        "DynamicQuantizeMatMul": lambda: Call(
            "DynamicQuantizeMatMul",
            {"a": f32(3, 16), "wb": u8(16, 6), "wbs": np.float32([0.02]), "wbz": np.uint8([128])}
        ),
        "QuantizeLinear": lambda: Call(
            "QuantizeLinear", {"x": f32(3, 16), "ws": np.float32(0.02), "wz": np.uint16(30000)}
        ),
        "DequantizeLinear": lambda: Call(
            "DequantizeLinear",
            {"x": rng.integers(0, 65536, (3, 16)).astype(np.uint16), "ws": np.float32(0.002), "wz": np.uint16(30000)}
        ),
        "GatherBlockQuantized": lambda: Call(
            "GatherBlockQuantized",
            {"wd": u8(20, 32), "i": rng.integers(0, 20, (2, 3)), "ws": np.abs(f32(20, 2)), "wz": u8(20, 1)},
            bits=4, block_size=32, gather_axis=0, quantize_axis=1,
        ),
        "MatMulNBits 4": lambda: nbits(4, False),
        "MatMulNBits 4 zeros": lambda: nbits(4, True),
        "MatMulNBits 8 zeros": lambda: nbits(8, True),
        "MatMulNBits 2": lambda: nbits(2, False),
        "MatMulNBits 8 bits of activations": lambda: nbits(4, False, accuracy_level=4),
    }  # fmt: skip
    yield from everything.items()
