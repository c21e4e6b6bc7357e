"""TaylorShift's efficient form against the matrix product rate of the same cores, counted on symmetric flops."""

from __future__ import annotations

from pathlib import Path

import common
import numpy as np
import torch

from hsm_models.ops import taylor_shift
from hsm_operators import make_node

# (heads, head width, bound); no bound where half of a tile's work is making features.
SHAPES = ((8, 16, None), (4, 32, 0.6), (8, 64, 0.6))
LENGTH = 4096  # long enough that the efficient form is the quicker one


def main() -> None:
    """Measure every shape."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    for heads, dim, bound in SHAPES:
        share = measure(report, heads, dim, 256 if quick else LENGTH, quick)
        if bound is not None:
            report.at_least(f"TaylorShift fused, share of the sgemm rate, d = {dim}", share, bound)
    report.finish()


def measure(report: common.Report, heads: int, dim: int, length: int, quick: bool) -> float:
    """Check and time one shape; return its share of the sgemm rate."""
    rng = np.random.default_rng(dim)
    feed = {name: common.random(rng, 1, length, heads, dim) for name in "qkv"}
    feed["temperature"] = np.ones(heads, np.float32)
    taylor = [make_node("TaylorShift", list(feed), ["y"], "taylor", normalize=1, output_norm=1)]
    fused = common.node(taylor, feed, {"y": feed["q"].shape}, fused=True)
    inputs = [torch.from_numpy(array) for array in feed.values()]
    reference = taylor_shift(*(tensor.double() for tensor in inputs), True, True).numpy()
    native = taylor_shift(*inputs, True, True).numpy()
    error = common.check(f"d = {dim}", fused.result(), reference, native)

    products, flops = common.sgemm_calls(256 if quick else 1024)
    times = common.take_turns({"fused": fused, **products}, 2 if quick else 11)
    # Two products with the d(d+1)/2 + d + 1 features, a multiply-add being two; neither features nor norms count.
    features = 1 + dim + dim * (dim + 1) // 2
    rate = 4.0 * heads * length * features * dim / times["fused"].median
    limit = common.sgemm_rate(times, flops)
    report.row(
        heads=heads,
        dim=dim,
        length=length,
        fused_ms=times["fused"].median * 1e3,
        gflops=rate / 1e9,
        sgemm_gflops=limit / 1e9,
        share=rate / limit,
        error=error,
    )
    return rate / limit


if __name__ == "__main__":
    main()
