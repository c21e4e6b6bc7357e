"""TaylorShift, fused, against what a user would run instead: softmax attention, linear attention, and its own body.

Two peers compute something else and are there for scale: ONNX Runtime's LinearAttention (causal, d features a key
where TaylorShift has 1 + d + d(d+1)/2), and the PyPI package taylor-series-linear-attention (another scaling and no
normalisation of keys and queries; 1 + d + d² features).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from onnx import helper

from hsm_models.ops import taylor_shift
from hsm_operators import make_node

# (heads, head width) -> the bounds at 4096 tokens: over ONNX Runtime's MultiHeadAttention, over the own body.
BOUNDS = {(8, 16): (12.0, 5.0), (4, 32): (4.0, 3.0), (8, 64): (None, 1.7)}
LENGTHS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
AT = 4096
PACKAGE = "taylor-series-linear-attention"
PEERS = ("body", "ORT MultiHeadAttention", "ORT Attention", "torch SDPA", "ORT LinearAttention", PACKAGE)
ATTENTIONS = ("ORT MultiHeadAttention", "ORT Attention")
# Peers are checked up to here: their definitions in float64 hold all pairs of tokens.
CHECKED = 1024
# It holds the features of all queries and keys: up to this many numbers for each.
PACKAGE_FEATURES = 2**25


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
    if length <= CHECKED:
        check_peers(q, k, v, calls)
    times = common.take_turns(calls, 2 if quick else 11)
    medians = {name: spread.median for name, spread in times.items()}
    best = min(medians[name] for name in ATTENTIONS)
    report.row(
        heads=heads,
        dim=dim,
        length=length,
        fused_ms=medians["fused"] * 1e3,
        quartiles_ms=f"{times['fused'].q1 * 1e3:.3g}-{times['fused'].q3 * 1e3:.3g}",
        **{f"{name} / fused": medians[name] / medians["fused"] if name in medians else None for name in PEERS},
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
        **linear_peers(flat, (tq, tk, tv)),
    }


def linear_peers(flat: dict[str, common.Array], tensors: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """Return the peers of linear cost; the PyPI package's where it is installed.

    Args:
        flat: q, k and v (1,N,H·d).
        tensors: the same (1,H,N,d).
    """
    _, heads, length, dim = tensors[0].shape
    outputs = {"y": (1, length, heads * dim), "state": (1, heads, dim, dim)}
    linear = helper.make_node(
        "LinearAttention",
        list(flat),
        list(outputs),
        domain="com.microsoft",
        update_rule="linear",
        q_num_heads=heads,
        kv_num_heads=heads,
        scale=1.0,
    )
    peers: dict[str, Any] = {"ORT LinearAttention": common.node([linear], flat, outputs)}
    if heads * length * dim * dim > PACKAGE_FEATURES:
        return peers
    if importlib.util.find_spec("taylor_series_linear_attention") is None:
        print("taylor-series-linear-attention is not installed: pip install 'hsm-export[bench]'", file=sys.stderr)
        return peers
    from taylor_series_linear_attention import TaylorSeriesLinearAttn

    layer = TaylorSeriesLinearAttn(dim, dim_head=dim, heads=heads, combine_heads=False)
    # Its projections are left out: the other contestants have none.
    layer.to_q, layer.to_kv = Given(tensors[0]), Given(torch.stack(tensors[1:]))
    anything = torch.empty(1, length, dim)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return layer(anything)

    return {**peers, PACKAGE: run}


class Given(torch.nn.Module):
    """Returns the same tensor whatever it is fed."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _x: torch.Tensor) -> torch.Tensor:
        return self.value


def check_peers(q: common.Array, k: common.Array, v: common.Array, calls: dict[str, Any]) -> None:
    """Check that the peers compute what they should, each on its own output (1,N,H·d)."""
    tensors = [torch.from_numpy(array).transpose(1, 2) for array in (q, k, v)]
    doubles = [tensor.double() for tensor in tensors]
    attend = torch.nn.functional.scaled_dot_product_attention
    definitions = dict.fromkeys(ATTENTIONS, attend) | {"ORT LinearAttention": causal_linear, PACKAGE: taylor_series}
    for name, define in definitions.items():
        if name in calls:
            reference, native = (define(*each).transpose(1, 2).flatten(2).numpy() for each in (doubles, tensors))
            value = calls[name]().numpy() if name == PACKAGE else calls[name].result()
            common.check(name, value.reshape(reference.shape), reference, native, allowed=8)


def causal_linear(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return y[t] = sum over s <= t of (q[t] . k[s]) v[s], for q, k and v (B,H,N,d)."""
    return (q @ k.transpose(2, 3)).tril() @ v


def taylor_series(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the average of v with weights 1 + x + x²/2, x = q . k / sqrt(d), for q, k and v (B,H,N,d)."""
    x = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    weights = 1 + x + x * x / 2
    return weights @ v / weights.sum(-1, keepdim=True)


if __name__ == "__main__":
    main()
