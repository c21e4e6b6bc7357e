"""The library file: what it exports and what it needs, because it is loaded into programs of every kind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.plugins.native import needs, program
from tests.plugins.tensorrt.library import REGISTER, plugin_library


def readelf(option: str, library: Path) -> list[str]:
    command = [str(program("readelf")), "--wide", option, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def exported(library: Path) -> set[str]:
    symbols = [line.split() for line in readelf("--dyn-syms", library)]
    return {words[7] for words in symbols if len(words) > 7 and words[4] in ("GLOBAL", "WEAK") and words[6].isdigit()}


def needed(library: Path) -> set[str]:
    return {line.split("[")[1].rstrip("]") for line in readelf("--dynamic", library) if "(NEEDED)" in line}


@needs("readelf")
def test_it_exports_what_tensorrt_looks_for_and_nothing_else() -> None:
    assert exported(plugin_library()) == {"getCreators", "hsm_library_operators", "setLoggerFinder"}
    assert exported(plugin_library().with_name(REGISTER)) == set()


@needs("readelf")
@pytest.mark.parametrize("name", ["libhsm_tensorrt.so", REGISTER])
def test_it_needs_neither_tensorrt_nor_the_cuda_toolkit(name: str) -> None:
    system = {"libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "ld-linux-x86-64.so.2"}
    assert needed(plugin_library().with_name(name)) <= system | {"libhsm_tensorrt.so"}
