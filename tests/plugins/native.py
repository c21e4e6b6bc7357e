"""What the tests of the native half need to find."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "native"


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where a program is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"there is no {program} on this machine")


def built(name: str) -> Path:
    """Return a program of the native build, or skip the test."""
    path = BUILD / "tests" / name
    if not path.is_file():
        pytest.skip(f"there is no {path.relative_to(ROOT)}; `make cpp-test` builds it")
    return path
