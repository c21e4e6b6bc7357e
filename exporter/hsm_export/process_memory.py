"""How much memory a process takes, as the operating system tells it."""

from __future__ import annotations

import resource
from pathlib import Path

SELF = "self"


def forget_peak(process: int | str = SELF) -> None:
    """Let the kernel's record of a process's peak start anew; without it the peak of earlier shapes counts."""
    try:
        Path(f"/proc/{process}/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes(process: int | str = SELF) -> int:
    """Return the largest resident memory since `forget_peak`."""
    return _status_bytes(process, "VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes(process: int | str = SELF) -> int:
    """Return the memory that is resident now."""
    return _status_bytes(process, "VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status_bytes(process: int | str, field: str) -> int:
    """Return a field of a process's status in bytes, 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
