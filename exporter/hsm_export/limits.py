"""Caps on time and memory, checked between runs and layers.

`limited_process` ends what cannot be checked from inside, such as one long run of native code.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .errors import LimitError
from .process_memory import resident_bytes

_CHUNK = 256 * 1024 * 1024


class LimitReached(BaseException):
    """A cap is reached in the middle of something; no handler of errors on the way takes it for one.

    Args:
        message: which cap, and in which phase.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True)
class Limits:
    """What a command may use.

    Attributes:
        seconds: wall-clock time; None for any.
        bytes: resident memory of this process; None for any.
        started: when the time began, on the machine's monotonic clock.
    """

    seconds: float | None = None
    bytes: int | None = None
    started: float = field(default_factory=time.monotonic)

    def check(self, phase: str) -> None:
        """Raise when a cap is reached.

        Raises:
            LimitError: it is; the message says which, and in which phase.
        """
        if reason := self.reached(resident_bytes() if self.bytes is not None else 0):
            option = "--max-seconds" if reason.startswith("the time") else "--max-memory"
            raise LimitError(f"{reason} was reached while {phase}", f"raise {option}")

    def reached(self, resident: int) -> str:
        """Return which cap is reached, "" for none.

        Args:
            resident: bytes of memory in use.
        """
        if self.seconds is not None and time.monotonic() - self.started > self.seconds:
            return f"the time limit of {self.seconds:g} s"
        if self.bytes is not None and resident > self.bytes:
            return f"the memory limit of {self.bytes / 1e6:.0f} MB"
        return ""

    def chunk_bytes(self, element: int) -> int:
        """Return how many bytes of float32 tensors may be taken out of one run.

        Args:
            element: bytes that the runtime uses for an element.
        """
        room = _CHUNK if self.bytes is None else min(_CHUNK, max(1, (self.bytes - resident_bytes()) // 4))
        return max(1, room * 4 // element)
