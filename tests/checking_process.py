"""One process that checks what all tests of a process export: starting one takes a second of processor time."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from hsm_export.child_process import ChildProcess
from hsm_export.exporting import checking

_lent_out = threading.Lock()  # to one thread at a time
_held: list[tuple[Any, ChildProcess]] = []  # at most one


@contextmanager
def _lent(*arguments: Any) -> Iterator[ChildProcess]:
    """Lend the process; it ends with whatever goes wrong, and where another folder or environment is wanted."""
    key = str(arguments), Path.cwd(), {**os.environ, "PYTEST_CURRENT_TEST": ""}
    with _lent_out:
        if not _held or _held[0][0] != key:
            _end()
            _held.append((key, ChildProcess(*arguments)))
        try:
            yield _held[0][1]
        except BaseException:
            _held.pop()[1].stop(force=True)
            raise


def _end() -> None:
    while _held:
        _held.pop()[1].stop()


def share_checking_process() -> None:
    """Let every export of this process use one process for its checks."""
    mock.patch.object(checking, "ChildProcess", _lent).start()
    atexit.register(_end)
