"""Child processes: requests, events, results and errors cross the border, and no child outlives its parent."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hsm_export.child_process import ChildProcess, ProcessEndedError, python_environment
from hsm_export.errors import BadInputError, HsmExportError, MissingDependencyError

CHILD = """
import os, sys, time
from hsm_export.child_process import Channel
from hsm_export.errors import BadInputError

def fail(kind):
    if kind == "ours":
        raise BadInputError("no such tensor", "name another")
    if kind == "os":
        open("/nowhere/at/all")
    if kind == "memory":
        raise MemoryError
    raise ZeroDivisionError("two\\nlines")

def work(seconds):
    channel.event("phase", "working", 1)
    print("noise")
    time.sleep(seconds)
    return {"slept": seconds}

channel = Channel(lambda: open(sys.argv[1], "w").close()) if sys.argv[1:] else Channel()
handlers = {"die": lambda code: os._exit(code), "kill": lambda number: os.kill(os.getpid(), number)}
channel.serve({"fail": fail, "work": work, **handlers})
"""


def child(*arguments: str, grace: float = 10.0) -> ChildProcess:
    return ChildProcess("the child", [sys.executable, "-c", CHILD, *arguments], python_environment(), grace=grace)


@pytest.fixture
def started() -> Iterator[ChildProcess]:
    with child() as process:
        yield process


def test_results_and_events_arrive_and_prints_do_not(started: ChildProcess) -> None:
    events: list[Any] = []
    assert started.ask("work", 0, event=lambda *values: events.append(values)) == {"slept": 0}
    assert events == [("phase", "working", 1)]
    assert started.ask("work", 0) == {"slept": 0}


def test_errors_keep_their_class(started: ChildProcess) -> None:
    with pytest.raises(BadInputError, match=r"^no such tensor$") as ours:
        started.ask("fail", "ours")
    assert ours.value.hint == "name another"
    with pytest.raises(FileNotFoundError) as system:
        started.ask("fail", "os")
    assert system.value.filename == "/nowhere/at/all"
    with pytest.raises(HsmExportError, match="the child: memory ran out"):
        started.ask("fail", "memory")
    with pytest.raises(HsmExportError, match=r"^the child: ZeroDivisionError: two$"):
        started.ask("fail", "other")
    with pytest.raises(HsmExportError, match="KeyError"):
        started.ask("nothing")
    assert started.ask("work", 0)  # it goes on


@pytest.mark.parametrize(
    ("request_", "argument", "words", "killed"),
    [("die", 3, "with exit code 3", False), ("kill", 11, "by SIGSEGV", False), ("kill", 9, "by SIGKILL", True)],
)
def test_an_end_without_an_answer(request_: str, argument: int, words: str, killed: bool) -> None:
    with child() as process, pytest.raises(ProcessEndedError, match=f"^the child ended {words}$") as caught:
        process.ask(request_, argument)
    assert caught.value.killed is killed


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(MissingDependencyError, match="/no/such/program cannot be started: No such file"):
        ChildProcess("x", ["/no/such/program"])


def test_an_answer_that_does_not_come_in_time() -> None:
    with child() as process, pytest.raises(HsmExportError, match=r"did not answer within 0\.2 seconds"):
        process.ask("work", 60, timeout=0.2, event=lambda *_: None)


def test_an_error_of_the_parent_ends_the_child_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), child() as process:
        process.ask("work", 3600, event=_interrupt)  # the test hangs where the child works on
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signals here")
def test_a_child_whose_parent_is_gone_cleans_up(tmp_path: Path) -> None:
    mark = tmp_path / "abandoned"
    process = child(str(mark))
    with pytest.raises(KeyboardInterrupt):
        process.ask("work", 60, event=_interrupt)
    process.stop()  # what the end of this process does to the pipe
    assert mark.exists()
