"""Ways in which a training process ends early, and what is true of its saved state afterwards."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# Ctrl-C, a polite kill, and the end of the terminal or of the ssh session.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first signal into a question that training asks after each step; a second one interrupts at once.

    A signal that is ignored, as SIGHUP is under nohup and SIGINT in background jobs, stays ignored.
    """
    asked = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, note)
    try:
        yield lambda: asked
    finally:
        for number in taken:
            signal.signal(number, before[number] if before[number] is not None else signal.SIG_DFL)


def what_remains(state: str | Path) -> str:
    """Say, after looking at the file, whether a run that ended early can be resumed."""
    from .trainer import saved_step

    step = saved_step(state)
    if step is None:
        return "no state is saved, so the run starts from the beginning"
    return f"the state of step {step} is saved in {state}, and --resume continues from it"
