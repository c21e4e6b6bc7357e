"""What tests share: made once, made anew when it was changed, and forgotten with the sources that decided it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import shared


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(shared, "CACHE", tmp_path)
    monkeypatch.setattr(shared, "_ready", set())
    shared.cache_folder.cache_clear()
    yield tmp_path
    shared.cache_folder.cache_clear()


def test_a_file_is_made_once_and_anew_when_it_was_changed(cache: Path) -> None:
    made = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("good")

    path = shared.made_once("thing.txt", make)
    shared._ready.clear()  # as another process
    assert shared.made_once("thing.txt", make) == path
    assert len(made) == 1
    path.write_text("changed")
    shared._ready.clear()
    assert shared.made_once("thing.txt", make).read_text() == "good"
    assert len(made) == 2


def test_what_failed_is_tried_again(cache: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        shared.made_once("thing", fail)
    assert shared.made_once("thing", lambda path: path.mkdir()).is_dir()


def test_only_the_newest_states_of_the_sources_stay(cache: Path) -> None:
    for age in range(5):
        (cache / str(age)).mkdir()
        os.utime(cache / str(age), (age, age))
    shared.begin_run()
    assert {path.name for path in cache.iterdir()} == {"3", "4", shared.cache_folder().name}


def test_a_program_that_a_test_interrupts_is_interrupted_in_the_background_too() -> None:
    """As with `make test &`: the shell lets a job in the background ignore Ctrl-C, and so all that it starts."""
    code = "import conftest as c, signal, subprocess, sys; c.pytest_configure(); "
    code += "sys.exit(subprocess.run([sys.executable, '-c', 'import signal; "
    code += "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)']).returncode)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=shared.ROOT,
        env={**os.environ, "PYTEST_XDIST_WORKER": "gw0"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True\n", done.stderr
