"""What a decoding step touches and what a sequence's state takes, against the formulas."""

from __future__ import annotations

import mmap
from pathlib import Path

import common
import guarded_ring
import numpy as np

from hsm_export.formats.state_spec import StateSpec
from hsm_models import HSMConfig, LanguageModel, SoftmaxConfig, SwitchHeadConfig, load_checkpoint

SHIFTS = (1, 16, 256, 4096, 65536)
MODELS = ("hsm-lm", "taylor-shift-lm", "switch-head-lm", "baseline-softmax")
LENGTHS = (1024, 65536)
FLOAT = 4


def main() -> None:
    """Count both."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    touched = [measure_step(report, shift, quick) for shift in (SHIFTS[:2] if quick else SHIFTS)]
    width = mmap.PAGESIZE // FLOAT
    claim = f"ring bytes that a step may touch, D = {width}, over D x 4 bytes, largest of all shifts"
    report.exactly(claim, max(touched) / mmap.PAGESIZE, 1)
    for name in MODELS:
        measure_state(report, name)
    report.finish()


def measure_step(report: common.Report, shift: int, quick: bool) -> int:
    """Count what a step with this shift touches, and time it; return the bytes."""
    width = mmap.PAGESIZE // FLOAT
    touched = guarded_ring.touched_bytes([shift])
    ring = np.zeros((1, shift, width), np.float32)
    x, y = np.zeros((2, 1, 1, width), np.float32)
    step = guarded_ring.bound_step([shift], ring, x, y, 3 * shift)
    seconds = common.take_turns({"step": step}, 2 if quick else 11)["step"].median
    report.row(shift=shift, ring_bytes=ring.nbytes, touched_bytes=touched, us_per_step=seconds * 1e6)
    return touched


def measure_state(report: common.Report, name: str) -> None:
    """Compare the bytes of a zoo model's state with the formula of its mixers."""
    model = load_checkpoint(f"zoo:{name}")
    assert isinstance(model, LanguageModel)
    spec = StateSpec.of(model)
    for length in LENGTHS:
        found = sum(array.nbytes for array in spec.allocate(1, length).values())
        expected = sum(formula(model, index, length) for index in range(len(model.config.layers)))
        report.row(model=name, tokens=length, state_bytes=found, formula_bytes=expected)
        report.exactly(f"{name}, state bytes at {length} tokens over the formula", found / expected, 1)


def formula(model: LanguageModel, index: int, length: int) -> int:
    """Return the bytes of one layer's state: R D, H F (d + 1), or 2 H f for each token."""
    mixer, width = model.config.layers[index].mixer, model.config.width
    if isinstance(mixer, HSMConfig):
        return max(mixer.shifts or (2**index,)) * width * FLOAT
    head = mixer.head_dim or width // mixer.heads
    if isinstance(mixer, (SwitchHeadConfig, SoftmaxConfig)):
        return 2 * mixer.heads * head * length * FLOAT
    return mixer.heads * (1 + head + head * (head + 1) // 2) * (head + 1) * FLOAT


if __name__ == "__main__":
    main()
