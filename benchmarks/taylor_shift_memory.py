"""The memory that TaylorShift, fused, takes beside its inputs and outputs: it must not grow with the length.

A script of its own, because a process that has done other work has freed memory that would hide what a call takes.
"""

from __future__ import annotations

from pathlib import Path

import common
import numpy as np

from hsm_export.process_memory import forget_peak, peak_bytes, resident_bytes
from hsm_operators import make_node

HEADS, DIM = 8, 32
CLAIM = "TaylorShift fused, memory beside inputs and output"


def main() -> None:
    """Measure a long and a short input."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    # The longest first: later calls find the working memory of the earlier ones.
    for length in (256, 64) if quick else (65536, 4096):
        measure(report, length)
    report.at_most(f"{CLAIM}, {report.rows[0]['length']} tokens, MiB", report.rows[0]["extra_mib"], 4)
    report.finish()


def measure(report: common.Report, length: int) -> None:
    """Record the peak memory of the first call beyond what was resident before it."""
    rng = np.random.default_rng(0)
    feed = {name: common.random(rng, 1, length, HEADS, DIM) for name in "qkv"}
    feed["temperature"] = np.ones(HEADS, np.float32)
    shape = feed["q"].shape
    node = make_node("TaylorShift", list(feed), ["y"], "taylor", normalize=1, output_norm=1)
    call = common.node([node], feed, {"y": shape}, fused=True)
    call.outputs[0].update_inplace(np.ones(shape, np.float32))  # touches the pages of the output
    before = resident_bytes()
    forget_peak()
    call()
    extra = max(peak_bytes() - before, 0) / 2**20
    report.row(heads=HEADS, dim=DIM, length=length, inputs_and_output_mib=4 * feed["q"].nbytes / 2**20, extra_mib=extra)


if __name__ == "__main__":
    main()
