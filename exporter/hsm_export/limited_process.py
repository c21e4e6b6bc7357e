"""Work with caps on time and memory in a process of its own, which is ended wherever it is when a cap is reached.

`python -m hsm_export.limited_process` is the child (see `child_process`). It is asked politely first, so that it can
say how far it came; native code does not listen, and is ended by force. What it had found by then is kept in a file.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .child_process import Channel, ChildProcess, ProcessEndedError, python_command, python_environment
from .errors import HsmExportError, LimitError
from .interrupts import raise_on
from .limits import LimitReached, Limits
from .process_memory import resident_bytes

# Seconds between two looks at a child, and those that it has to end by itself.
_LOOK, _GRACE = 0.05, 1.5
_ARGUMENTS, _KEPT, _RAISED = "arguments.pickle", "kept.pickle", "raised.pickle"
_SCRATCH = ".hsm-export.*"

Progress = Callable[[str], None]


def run_limited(
    job: str,
    arguments: Mapping[str, Any],
    limits: Limits,
    progress: Progress,
    written: Iterable[str | Path | None] = (),
) -> tuple[Any, str]:
    """Call a function of ours in a child process.

    Args:
        job: the function, as "hsm_export.diffing.api:diff_within".
        arguments: its arguments by name; it gets `limits`, `progress` and `keep`, which receives what there is so far,
            besides.
        limits: the caps.
        progress: receives the name of each phase.
        written: folders that the job writes as a whole; what it leaves half-made beside them is removed.

    Returns:
        What the function returned, and ""; or what it kept last, and why it was ended.

    Raises:
        LimitError: it was ended before it kept anything.
        HsmExportError: what the function raised.
    """
    beside = {Path(path).absolute().parent for path in written if path is not None}
    before = {path for folder in beside for path in folder.glob(_SCRATCH)}
    with tempfile.TemporaryDirectory(prefix="hsm-limited-") as name:
        folder = Path(name)
        (folder / _ARGUMENTS).write_bytes(pickle.dumps((job, dict(arguments), limits)))
        watch = _Watch(limits, progress)
        environment = {**python_environment(), "TMPDIR": name}
        try:
            with ChildProcess("hsm-export", python_command(__name__), environment, grace=_GRACE) as child:
                watch.start(child.pid)
                child.ask("run", name, event=watch.enter)
        except ProcessEndedError:
            if not watch.reason:
                raise
        except HsmExportError:
            if (folder / _RAISED).is_file():  # as it was raised, with its own type
                raise pickle.loads((folder / _RAISED).read_bytes()) from None
            raise
        finally:
            watch.stop()
            if watch.reason:
                for path in {path for place in beside for path in place.glob(_SCRATCH)} - before:
                    shutil.rmtree(path, ignore_errors=True)
        if not (folder / _KEPT).is_file():
            raise LimitError(f"{watch.reason} was reached while {watch.phase}: nothing was compared", watch.hint)
        result, finished = pickle.loads((folder / _KEPT).read_bytes())  # our own child wrote it
    return result, "" if finished else f"{watch.reason} was reached while {watch.phase}"


class _Watch:
    """Looks at a child again and again, and ends it when a cap is reached."""

    def __init__(self, limits: Limits, progress: Progress) -> None:
        self._limits = limits
        self._progress = progress
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.phase = "starting"
        self.reason = ""

    @property
    def hint(self) -> str:
        """What to do about the cap that was reached."""
        return f"raise {'--max-seconds' if self.reason.startswith('the time') else '--max-memory'}"

    def enter(self, _event: str, phase: str) -> None:
        """Remember what the child is at; not after it was asked to end."""
        if not self.reason:
            self.phase = phase
            self._progress(phase)

    def start(self, process: int) -> None:
        """Begin to look at a process."""
        self._thread = threading.Thread(target=self._look, args=(process,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self, process: int) -> None:
        while not self._stopped.wait(_LOOK):
            self.reason = self._limits.reached(resident_bytes(process))
            if self.reason:
                break
        for number in (signal.SIGTERM, signal.SIGKILL) if self.reason else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
            if self._stopped.wait(_GRACE):
                return


class _Worker:
    """The child's end."""

    def __init__(self) -> None:
        self._channel = Channel(lambda: None)
        self._phase = "starting"

    def serve(self) -> None:
        """Answer the one request that there is."""
        raise_on(signal.SIGTERM, lambda: LimitReached(f"a cap was reached while {self._phase}"))
        self._channel.serve({"run": self._run})

    def _run(self, name: str) -> None:
        folder = Path(name)
        job, arguments, limits = pickle.loads((folder / _ARGUMENTS).read_bytes())  # our own parent wrote it
        module, _, function = job.partition(":")
        self._enter("loading hsm_export")

        def keep(result: Any, finished: bool = False) -> None:
            scratch = folder / f"{_KEPT}.new"
            scratch.write_bytes(pickle.dumps((result, finished)))
            scratch.replace(folder / _KEPT)

        call = getattr(importlib.import_module(module), function)
        try:
            keep(call(**arguments, limits=limits, progress=self._enter, keep=keep), finished=True)
        except Exception as error:
            with contextlib.suppress(Exception):  # one that cannot be sent goes the way of all answers
                kept = pickle.dumps(error)
                pickle.loads(kept)
                (folder / _RAISED).write_bytes(kept)
            raise
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is done; the answer is on its way

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._channel.event("phase", phase)


if __name__ == "__main__":
    _Worker().serve()
