"""The process `hsm-run --serve`: one request a line, one answer a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..child_process import ChildProcess, ProcessEndedError
from ..errors import BadInputError, HsmExportError, MissingDependencyError

_GRACE_SECONDS = 5.0
_KINDS: dict[int, type[HsmExportError]] = {2: BadInputError, 3: MissingDependencyError, 4: BadInputError}


class ServingProcess:
    """A process that has a model loaded.

    Args:
        command: the program and its arguments.
        environment: what it finds in its environment beside ours.
        timeout: seconds that an answer may take.

    Raises:
        MissingDependencyError: no back end of the program works here.
        BadInputError: the model cannot be used.
        HsmExportError: the process crashed or did not answer.
    """

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str], timeout: float) -> None:
        self._timeout = timeout
        self._process = ChildProcess("hsm-run", command, environment, grace=_GRACE_SECONDS)
        try:
            self.backend = self._answer(None, timeout, "ready")
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
        return float(self._answer("\t".join(map(str, words)), self._timeout + extra_seconds, "ok")) * 1e-6

    def stop(self) -> None:
        """End the process: at the end of its requests, or by force."""
        self._process.stop()

    def _answer(self, request: str | None, timeout: float, expected: str) -> str:
        try:
            word, _, rest = self._process.exchange(request, timeout).partition(" ")
        except ProcessEndedError as error:
            raise _said(error) from error
        if word == expected:
            return rest
        if word == "error":
            raise BadInputError(f"the C++ runtime: {rest}")
        raise HsmExportError(
            f"hsm-run answered {word!r}, which is not its protocol", "use the one of this installation"
        )


def _said(ended: ProcessEndedError) -> HsmExportError:
    """Return why the process ended: what it said itself, if it did."""
    reasons = (line.removeprefix("error: ") for line in ended.said.splitlines() if line.startswith("error: "))
    reason = next(reasons, None)
    if reason is not None:
        return _KINDS.get(ended.code, HsmExportError)(f"the C++ runtime: {reason}")
    ended.hint = "a crash of the C++ runtime: please report it"
    return ended
