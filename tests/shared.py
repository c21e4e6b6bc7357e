"""Files that all processes of a test run share: the first that needs one makes it, the others wait for it."""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import runpy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_VARIABLE = "HSM_TEST_FOLDER"


@functools.cache
def run_folder() -> Path:
    """Return the folder of this run; whoever asks first makes it, tells its children, and removes it at its end."""
    if _VARIABLE not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="hsm-export-tests.")
        atexit.register(folder.cleanup)
        os.environ[_VARIABLE] = folder.name
    return Path(os.environ[_VARIABLE])


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return the file or folder of that name in the run's folder; `make` gets its path, which has a folder of its own.

    A failure is not kept: the next one to ask tries again.
    """
    path = run_folder() / f"{name}.made" / name
    path.parent.mkdir(exist_ok=True)
    done = path.parent / "done"
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(path)
            done.touch()
    return path


# The language models of examples/language_models, each a file with a function `make`.
EXAMPLES = ("lfm2", "mamba", "rwkv")


def example(name: str) -> str:
    """Return what names an example's model for the toolkit: FILE.py:FACTORY."""
    return f"{Path(__file__).parents[1] / 'examples' / 'language_models' / name}.py:make"


def example_model(name: str) -> nn.Module:
    """Return an example's model."""
    path, _, factory = example(name).rpartition(":")
    model: nn.Module = runpy.run_path(path)[factory]()
    return model.eval()
