"""TaylorShift, fused, against what a user would run instead: softmax attention, and its own body."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from onnx import helper

from hsm_export.opset import make_node
from hsm_models.ops import taylor_shift

# (heads, head width) -> the bounds at 4096 tokens: over ONNX Runtime's MultiHeadAttention, over the own body.
BOUNDS = {(8, 16): (12.0, 5.0), (4, 32): (4.0, 3.0), (8, 64): (None, 1.7)}
LENGTHS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
AT = 4096
ATTENTIONS = ("ORT MultiHeadAttention", "ORT Attention")


def main() -> None:
    """Measure every shape and length."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    worst = float("inf")
    for heads, dim in BOUNDS:
        for length in (16, 48) if quick else LENGTHS:
            times = measure(report, heads, dim, length, quick)
            attention = min(times[name] for name in ATTENTIONS)
            worst = min(worst, attention / times["fused"])
            if length == AT:
                claim(report, heads, dim, times)
    report.at_least("TaylorShift fused over ORT softmax attention, smallest ratio of all lengths", worst, 1.0)
    report.finish()


def claim(report: common.Report, heads: int, dim: int, times: dict[str, float]) -> None:
    """Hold the times at 4096 tokens to the bounds."""
    over_attention, over_body = BOUNDS[heads, dim]
    shape = f"{heads}x{dim}, N = {AT}"
    if over_attention is not None:
        ratio = times["ORT MultiHeadAttention"] / times["fused"]
        report.at_least(f"TaylorShift fused over ORT MultiHeadAttention, {shape}", ratio, over_attention)
    report.at_least(f"TaylorShift fused over its body, {shape}", times["body"] / times["fused"], over_body)


def measure(report: common.Report, heads: int, dim: int, length: int, quick: bool) -> dict[str, float]:
    """Check and time one shape; return medians in seconds."""
    rng = np.random.default_rng(length)
    q, k, v = (common.random(rng, 1, length, heads, dim) for _ in range(3))
    calls = runners(q, k, v)
    inputs = [torch.from_numpy(array) for array in (q, k, v, np.ones(heads, np.float32))]
    reference = taylor_shift(*(tensor.double() for tensor in inputs), True, True).numpy()
    native = taylor_shift(*inputs, True, True).numpy()
    error = 0.0
    for name in ("body", "fused"):
        value = calls[name].result()
        error = common.check(f"{name}, {heads}x{dim}, N = {length}", value, reference, native)
    check_attention(q, k, v, calls)
    times = common.take_turns(calls, 2 if quick else 7 if length > AT else 11)
    medians = {name: spread.median for name, spread in times.items()}
    best = min(medians[name] for name in ATTENTIONS)
    report.row(
        heads=heads,
        dim=dim,
        length=length,
        fused_ms=medians["fused"] * 1e3,
        quartiles_ms=f"{times['fused'].q1 * 1e3:.3g}-{times['fused'].q3 * 1e3:.3g}",
        **{f"{name} / fused": value / medians["fused"] for name, value in medians.items() if name != "fused"},
        fastest_ort_attention=best / medians["fused"],
        error=error,
        torch_error=float(np.abs(native - reference).max()),
    )
    return medians


def runners(q: common.Array, k: common.Array, v: common.Array) -> dict[str, Any]:
    """Return one callable per contestant."""
    _, length, heads, dim = q.shape
    feed = {"q": q, "k": k, "v": v, "temperature": np.ones(heads, np.float32)}
    taylor = [make_node("TaylorShift", list(feed), ["y"], "taylor", normalize=1, output_norm=1)]
    flat = {name: array.reshape(1, length, heads * dim) for name, array in (("q", q), ("k", k), ("v", v))}
    packed = {"y": (1, length, heads * dim)}
    contrib = helper.make_node(
        "MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=heads, name="attention"
    )
    standard = helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=heads, kv_num_heads=heads)
    tq, tk, tv = (torch.from_numpy(array).transpose(1, 2).contiguous() for array in (q, k, v))
    return {
        "fused": common.node(taylor, feed, {"y": q.shape}, fused=True),
        "body": common.node(taylor, feed, {"y": q.shape}),
        "ORT MultiHeadAttention": common.node([contrib], flat, packed),
        "ORT Attention": common.node([standard], flat, packed, opset=23),
        "torch SDPA": lambda: torch.nn.functional.scaled_dot_product_attention(tq, tk, tv),
    }


def check_attention(q: common.Array, k: common.Array, v: common.Array, calls: dict[str, Any]) -> None:
    """Check that the softmax peers compute what they should, on their own output."""
    tensors = [torch.from_numpy(array).transpose(1, 2) for array in (q, k, v)]
    attend = torch.nn.functional.scaled_dot_product_attention
    reference = attend(*(tensor.double() for tensor in tensors)).transpose(1, 2).numpy()
    native = attend(*tensors).transpose(1, 2).numpy()
    for name in ATTENTIONS:
        common.check(name, calls[name].result().reshape(reference.shape), reference, native, allowed=8)


if __name__ == "__main__":
    main()
