"""ShiftMix, fused, against a copy of the same bytes and against its body."""

from __future__ import annotations

from pathlib import Path

import common
import numpy as np
import torch

from hsm_models.ops import shift_mix
from hsm_operators import make_node

SHIFTS = [1, 2, 4, 8]
# (tokens, width, what it fits into)
SHAPES = ((512, 256, "L2"), (2048, 1024, "L3"), (32768, 1024, "memory"))


def main() -> None:
    """Measure every shape; the claims are about the largest, which no cache holds."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    for length, width, where in ((64, 32, "L1"),) if quick else SHAPES:
        over_copy, over_body = measure(report, length, width, where, quick)
        report.at_most(f"ShiftMix fused over memcpy of the same bytes, in {where}", over_copy, 1.15)
        report.at_least(f"ShiftMix fused over its body, in {where}", over_body, 3.0)
    report.finish()


def measure(report: common.Report, length: int, width: int, where: str, quick: bool) -> tuple[float, float]:
    """Check and time one shape; return the ratios to a copy and to the body."""
    rng = np.random.default_rng(length)
    x = common.random(rng, 1, length, width)
    feed = {"x": x, "alpha": common.random(rng, width), "beta": common.random(rng, width)}
    mix = [make_node("ShiftMix", list(feed), ["y"], "mix", shifts=SHIFTS)]
    calls = {
        "fused": common.node(mix, feed, {"y": x.shape}, fused=True),
        "body": common.node(mix, feed, {"y": x.shape}),
    }
    tensors = [torch.from_numpy(array) for array in feed.values()]
    reference = shift_mix(*(tensor.double() for tensor in tensors), SHIFTS).numpy()
    native = shift_mix(*tensors, SHIFTS).numpy()
    error = max(common.check(name, call.result(), reference, native) for name, call in calls.items())

    source, target = tensors[0], torch.ones_like(tensors[0])
    copy = np.ones_like(x)
    copies = {"copy torch": lambda: target.copy_(source), "copy numpy": lambda: np.copyto(copy, x)}
    times = common.take_turns({**calls, **copies}, 2 if quick else 21)
    fused = times["fused"].median
    copied = min(times[name].median for name in copies)
    report.row(
        tokens=length,
        width=width,
        fits_into=where,
        fused_us=fused * 1e6,
        gb_per_s=2 * x.nbytes / fused / 1e9,
        copy_gb_per_s=2 * x.nbytes / copied / 1e9,
        over_copy=fused / copied,
        body_over_fused=times["body"].median / fused,
        error=error,
    )
    return fused / copied, times["body"].median / fused


if __name__ == "__main__":
    main()
