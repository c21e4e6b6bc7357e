"""The process `hsm-run --serve`: one request a line, one answer a line."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import BadInputError, HsmExportError, MissingDependencyError

_GRACE_SECONDS = 5.0


class ServingProcess:
    """A process that has a model loaded.

    Args:
        command: the program and its arguments.
        environment: its environment.
        messages: a file for what it writes to stderr.
        timeout: seconds that an answer may take.

    Raises:
        MissingDependencyError: no back end of the program works here.
        BadInputError: the model cannot be used.
        HsmExportError: the process crashed or did not answer.
    """

    def __init__(
        self, command: Sequence[str | Path], environment: Mapping[str, str], messages: Path, timeout: float
    ) -> None:
        self._messages = messages
        self._timeout = timeout
        self._received = b""
        with messages.open("wb") as stderr:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=dict(environment)
                )
            except OSError as error:
                raise MissingDependencyError(f"{command[0]} cannot be started: {error.strerror}") from error
        try:
            self.backend = self._answer(timeout, "ready")
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def ask(self, *words: str | Path, extra_seconds: float = 0) -> float:
        """Send a request; return the seconds that it says.

        Args:
            words: what `hsm-run --help` says of requests.
            extra_seconds: by how much the answer may take longer than usual.

        Raises:
            BadInputError: the inputs do not fit, or the model failed on them.
            HsmExportError: the process crashed or did not answer.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\t".join(map(str, words)).encode() + b"\n")
            self._process.stdin.flush()
        return float(self._answer(self._timeout + extra_seconds, "ok")) * 1e-6

    def stop(self) -> None:
        """End the process: at the end of its requests, or by force."""
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(_GRACE_SECONDS if self._process.returncode is None else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _answer(self, timeout: float, expected: str) -> str:
        word, _, rest = self._line(timeout).partition(" ")
        if word == expected:
            return rest
        if word == "error":
            raise BadInputError(f"the C++ runtime: {rest}")
        raise HsmExportError(
            f"hsm-run answered {word!r}, which is not its protocol", "use the one of this installation"
        )

    def _line(self, timeout: float) -> str:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self._process.kill()
                    raise HsmExportError(f"hsm-run did not answer within {timeout:g} seconds and was ended")
                block = os.read(self._process.stdout.fileno(), 1 << 16)
                if not block:
                    raise self._ended()
                self._received += block
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")

    def _ended(self) -> HsmExportError:
        """Return why the process ended."""
        code = self._process.wait()
        lines = self._messages.read_text(errors="replace").strip().splitlines()
        reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)
        if reason is not None:
            kinds: dict[int, type[HsmExportError]] = {2: BadInputError, 3: MissingDependencyError, 4: BadInputError}
            return kinds.get(code, HsmExportError)(f"the C++ runtime: {reason}")
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        said = f": {lines[-1]}" if lines else ""
        return HsmExportError(f"hsm-run ended {how}{said}", "a crash of the C++ runtime: please report it")
