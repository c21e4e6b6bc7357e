"""What the tests of the native half need to find."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("HSM_BUILD", ROOT / "build" / "native"))


def program(name: str) -> str | None:
    """Return the path of a program of this Python environment or of the system."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def needs(name: str) -> pytest.MarkDecorator:
    """Skip where a program is missing."""
    return pytest.mark.skipif(program(name) is None, reason=f"there is no {name} on this machine")


def built(name: str) -> Path:
    """Return a program of the native build, or skip the test."""
    path = BUILD / "tests" / name
    if not path.is_file():
        pytest.skip(f"there is no {path.relative_to(ROOT)}; `make cpp-test` builds it")
    return path
