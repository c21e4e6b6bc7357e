"""The shared library as others meet it: its symbols, what it links, and its CMake package."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.exporter.runtimes.fused import needs_library
from tests.plugins.native import needs

import hsm_export

pytestmark = needs_library


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs("nm")
def test_only_the_entry_point_is_exported() -> None:
    symbols = output("nm", "--dynamic", "--defined-only", "--format=posix", hsm_export.custom_ops_path())
    assert [line.split()[0] for line in symbols.splitlines()] == ["RegisterCustomOps"]


@needs("readelf")
def test_nothing_but_the_c_library_is_linked() -> None:
    linked = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "--dynamic", hsm_export.custom_ops_path()))
    extra = {name for name in linked if not re.match(r"(libc|libm|ld-linux[\w-]*)\.so", name)}
    assert not extra


@needs("cmake")
def test_cmake_finds_the_library(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\n"
        "project(consumer LANGUAGES NONE)\n"
        "find_package(HsmPlugins 0.1 REQUIRED)\n"
        'message(STATUS "library=${HSM_ONNXRUNTIME_LIBRARY}")\n'
    )
    prefix = f"-DCMAKE_PREFIX_PATH={hsm_export.cmake_prefix_path()}"
    printed = output("cmake", "-S", tmp_path, "-B", tmp_path / "build", prefix)
    (found,) = re.findall(r"library=(.*)", printed)
    assert Path(found).samefile(hsm_export.custom_ops_path())
