"""Dockerfiles: linted, and true to what the project has. Building them needs Docker and is not done here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def linter() -> str | None:
    """Return hadolint: of this environment, or the system's."""
    beside = Path(sys.executable).with_name("hadolint")
    return str(beside) if beside.is_file() else shutil.which("hadolint")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
@pytest.mark.skipif(linter() is None, reason="hadolint is not installed")
def test_lint(path: Path) -> None:
    done = subprocess.run([str(linter()), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_there_are_two() -> None:
    assert [path.name for path in DOCKERFILES] == ["cpu.Dockerfile", "gpu-build.Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_ends_as_somebody_else_than_root(path: Path) -> None:
    assert re.findall(r"^USER (\S+)$", path.read_text(), re.MULTILINE)[-1:] == ["10001"]


def test_final_stage_of_the_runtime_has_no_python() -> None:
    final = (ROOT / "docker" / "cpu.Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert "python" not in final.lower()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_exists(path: Path) -> None:
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_options_of_the_native_build_exist(path: Path) -> None:
    known = (ROOT / "plugins" / "CMakeLists.txt").read_text()
    for option in re.findall(r"-D(HSM_\w+)=", path.read_text()):
        assert option in known, option
