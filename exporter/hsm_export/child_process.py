"""Child processes that answer requests: one protocol for builders, benchmarks and checks.

A child is a process of its own because native code may crash, because its memory shall not add up with ours, or because
its libraries need another environment. Requests and answers are JSON objects, one a line, on stdin and stdout:

    {"request": name, "argument": ...}   from the parent
    {"event": name, "values": [...]}     from the child, any number of them while it works
    {"done": result}                     from the child, or
    {"error": {"type", "message", "hint", "errno"}}

The end of stdin tells the child that nobody waits any more. Programs that are not in Python, such as `hsm-run --serve`,
answer a line with a line (`ChildProcess.exchange`).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from . import errors
from .errors import HsmExportError, MissingDependencyError


class ProcessEndedError(HsmExportError):
    """A child process ended without an answer.

    Args:
        name: what the process is, such as "hsm-run".
        code: its exit code; negative is the signal that ended it.
        said: what it wrote to stderr.
    """

    def __init__(self, name: str, code: int, said: str) -> None:
        self.code = code
        self.said = said
        self.how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        lines = said.strip().splitlines()
        self.last_line = lines[-1].strip() if lines else ""
        super().__init__(f"{name} ended {self.how}" + (f": {self.last_line}" if self.last_line else ""))

    @property
    def killed(self) -> bool:
        """Whether something ended it by force, as the system does when memory runs out."""
        return self.code == -getattr(signal, "SIGKILL", 9)


class ChildProcess:
    """A process that answers requests; a context manager that ends it.

    Args:
        name: what errors call it.
        command: the program and its arguments; `python_command` for a module of ours.
        environment: what the process finds in its environment beside ours, such as thread counts.
        grace: seconds that it may take to end by itself once its stdin is closed.

    Raises:
        MissingDependencyError: the program cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        *,
        grace: float = 10.0,
    ) -> None:
        self.name = name
        self._grace = grace
        self._received = b""
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the process
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                env={**os.environ, **(environment or {})},
                # Ctrl-C is for this process, which then ends the child; native code would not listen.
                start_new_session=True,
            )
        except OSError as error:
            self._messages.close()
            raise MissingDependencyError(f"{command[0]} cannot be started: {error.strerror}") from error

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(force=error is not None)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def ask(
        self,
        request: str,
        argument: Any = None,
        *,
        timeout: float | None = None,
        event: Callable[..., None] | None = None,
    ) -> Any:
        """Send a request and return what the child's handler returned.

        Args:
            request: name of the handler.
            argument: what it gets; anything that JSON holds.
            timeout: seconds that each line of the answer may take; None waits for ever.
            event: receives the name and the values of each event.

        Raises:
            HsmExportError: what the handler raised; `ProcessEndedError` when the process ended without an answer.
            OSError: a file could not be written or read.
        """
        self._send(json.dumps({"request": request, "argument": argument}))
        while True:
            message: dict[str, Any] = json.loads(self._line(timeout))
            if "event" in message:
                if event is not None:
                    event(message["event"], *message["values"])
            elif "error" in message:
                raise _received_error(self.name, message["error"])
            else:
                return message["done"]

    def exchange(self, line: str | None, timeout: float) -> str:
        """Send a line, unless it is None, and return the line that comes back.

        Raises:
            ProcessEndedError: the process ended without an answer.
            HsmExportError: it did not answer in time; it was ended.
        """
        if line is not None:
            self._send(line)
        return self._line(timeout).decode(errors="replace")

    def stop(self, *, force: bool = False) -> None:
        """End the process: at the end of its requests, so that it can clean up, or by force."""
        if force and self._process.poll() is None:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(self._grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._messages.close()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells why
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def _line(self, timeout: float | None) -> bytes:
        assert self._process.stdout is not None
        deadline = None if timeout is None else time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not selector.select(left):
                    self._process.kill()
                    raise HsmExportError(f"{self.name} did not answer within {timeout:g} seconds and was ended")
                block = os.read(self._process.stdout.fileno(), 1 << 16)
                if not block:
                    raise self._ended()
                self._received += block
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _ended(self) -> ProcessEndedError:
        code = self._process.wait()
        self._messages.seek(0)
        return ProcessEndedError(self.name, code, self._messages.read().decode(errors="replace"))


def python_command(module: str) -> list[str]:
    """Return the command that runs a module of ours in the interpreter of this process."""
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", module]
    return code_command(f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)")


def code_command(code: str) -> list[str]:
    """Return the command that runs Python code in this interpreter, out of reach of the current folder's modules."""
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-c", code]
    return [sys.executable, "-c", f"import sys; sys.path.pop(0)\n{code}"]


def python_environment() -> dict[str, str]:
    """Return what makes a Python child import what this process would."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class Channel:
    """The child's end: answers requests until there are no more; what else is written to stdout goes to stderr.

    Args:
        abandoned: called when the parent is gone while a request is at work; the process then ends at once. Without
            it the request is finished first.
    """

    def __init__(self, abandoned: Callable[[], None] | None = None) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._lock = threading.Lock()
        self._abandoned = abandoned
        os.dup2(2, 1)

    def event(self, name: str, *values: Any) -> None:
        """Tell the parent how the work goes."""
        self._write(event=name, values=values)

    def serve(self, handlers: Mapping[str, Callable[[Any], Any]]) -> None:
        """Answer requests with what the handler of that name returns or raises."""
        requests: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        busy = threading.Event()

        def read() -> None:
            for line in sys.stdin:
                busy.set()
                requests.put(line)
            if busy.is_set() and self._abandoned is not None:
                self._abandoned()
                os._exit(1)
            requests.put(None)

        threading.Thread(target=read, daemon=True).start()
        for line in iter(requests.get, None):
            answer = _answer(handlers, json.loads(line))
            busy.clear()  # before the parent, which may end this process then, has its answer
            self._write(**answer)

    def _write(self, **message: Any) -> None:
        with self._lock:
            self._file.write(json.dumps(message) + "\n")
            self._file.flush()


def _answer(handlers: Mapping[str, Callable[[Any], Any]], message: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"done": handlers[message["request"]](message["argument"])}
    except Exception as error:
        return {"error": _sent_error(error)}


def _sent_error(error: Exception) -> dict[str, Any]:
    """Describe an exception, so that `_received_error` can raise its like."""
    if isinstance(error, HsmExportError):
        return {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    if isinstance(error, OSError) and error.errno is not None:
        return {"type": "OSError", "message": error.strerror, "errno": error.errno, "file": error.filename}
    if isinstance(error, MemoryError):
        return {"type": "HsmExportError", "message": "memory ran out", "hint": None}
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return {"type": "HsmExportError", "message": message, "hint": None}


def _received_error(name: str, error: Mapping[str, Any]) -> Exception:
    if error["type"] == "OSError":
        return OSError(error["errno"], error["message"], error["file"])
    kind = getattr(errors, error["type"], HsmExportError)
    message = error["message"] if kind is not HsmExportError else f"{name}: {error['message']}"
    found: HsmExportError = kind(message, error["hint"])
    return found
