"""Caps on time and memory, checked between runs and layers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ..benchmarking.memory import resident_bytes
from ..errors import LimitError

_CHUNK = 256 * 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What a diff may use.

    Attributes:
        seconds: wall-clock time; None for any.
        bytes: resident memory of this process; None for any.
    """

    seconds: float | None = None
    bytes: int | None = None
    _start: float = field(default_factory=time.monotonic)

    def check(self, phase: str) -> None:
        """Raise when a cap is reached.

        Raises:
            LimitError: it is; the message says which, and in which phase.
        """
        if self.seconds is not None and time.monotonic() - self._start > self.seconds:
            raise LimitError(f"the time limit of {self.seconds:g} s was reached while {phase}", "raise --max-seconds")
        if self.bytes is not None and resident_bytes() > self.bytes:
            limit = self.bytes / 1e6
            raise LimitError(f"the memory limit of {limit:.0f} MB was reached while {phase}", "raise --max-memory")

    def chunk_bytes(self, element: int) -> int:
        """Return how many bytes of float32 tensors may be taken out of one run.

        Args:
            element: bytes that the runtime uses for an element.
        """
        room = _CHUNK if self.bytes is None else min(_CHUNK, max(1, (self.bytes - resident_bytes()) // 4))
        return max(1, room * 4 // element)
