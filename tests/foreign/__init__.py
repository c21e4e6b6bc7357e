"""An operator as somebody else would have it: a folder with kernels, outside the repository, built once a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.shared import made_once

from hsm_export.operators.building import build_operators

SOURCES = Path(__file__).parent / "scale_mix"
DOMAIN, NAME = "foreign", "ScaleMix"
SIGNATURE = "foreign::ScaleMix(x:T(B,T,D),gain:T(D))->(y:T(B,T,D)){times:int}"
# Where this is set, the CPU kernel adds 1000.
MARK = "SCALE_MIX_MARK"

needs_compilers = pytest.mark.skipif(
    shutil.which("c++") is None or shutil.which("cmake") is None, reason="there is no C++ compiler or no CMake"
)
HAS_NVCC = shutil.which("nvcc") is not None or Path("/usr/local/cuda/bin/nvcc").is_file()
needs_nvcc = pytest.mark.skipif(not HAS_NVCC, reason="there is no nvcc")


def copy(folder: Path, name: str = SOURCES.name) -> Path:
    """Copy the operator, without any library, into a folder; return its own.

    Args:
        folder: where it goes.
        name: of the copy, and, where it is another, of its domain: a process knows one folder of a name.
    """
    own = Path(shutil.copytree(SOURCES, folder / name, ignore=shutil.ignore_patterns("lib", "__pycache__")))
    if name != SOURCES.name:
        for path in own.iterdir():
            text = path.read_text().replace(f'"{SOURCES.name}/', f'"{name}/')
            path.write_text(text.replace(f'domain="{DOMAIN}"', f'domain="{name}"'))
    return own


def built() -> Path:
    """Return the operator's folder with its libraries in `lib`: CUDA's for one architecture, where nvcc is."""

    def make(path: Path) -> None:
        path.mkdir(exist_ok=True)
        build_operators(copy(path), architectures=os.environ.get("HSM_TEST_CUDA_ARCHITECTURE", "sm86"))

    return made_once("foreign-operator", make) / SOURCES.name
