"""What the runtimes on NVIDIA GPUs ask of the machine."""

from __future__ import annotations

import re

from ..building.cuda_driver import probe


def no_gpu() -> str | None:
    """Return None when there is a usable GPU, else the reason why not."""
    return probe().reason


def gpu_architecture() -> str:
    """Return the architecture of the first GPU, such as "sm89"; "none" where there is none."""
    match = re.search(r"\((sm\d+)\)", next(iter(probe().devices), ""))
    return match.group(1) if match else "none"
