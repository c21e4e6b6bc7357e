"""The shared libraries of CPU kernels as others meet them: their symbols, what they link, and the CMake package."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.exporter.runtimes.fused import needs_library
from tests.operators.harness import one_node_model
from tests.plugins.native import BUILD, ROOT, needs, program

import hsm_export
import onnxruntime
from hsm_operators.installation import kernels_path

pytestmark = needs_library


def output(name: str, *arguments: str | Path) -> str:
    return subprocess.run([str(program(name)), *arguments], capture_output=True, text=True, check=True).stdout


def exported(library: Path | None) -> list[str]:
    symbols = output("nm", "--dynamic", "--defined-only", "--format=posix", str(library))
    return [line.split()[0] for line in symbols.splitlines()]


@needs("nm")
def test_only_the_entry_points_are_exported() -> None:
    assert exported(hsm_export.custom_ops_path()) == ["RegisterCustomOps", "hsm_library_operators"]


@needs("nm")
def test_pytorchs_library_exports_what_its_header_declares() -> None:
    header = (ROOT / "plugins" / "torch" / "hsm_kernels.h").read_text()
    declared = re.findall(r"HSM_KERNELS_API [^;]*?\b(hsm_kernels_\w+)\(", header)
    assert exported(kernels_path()) == [*sorted(declared), "hsm_library_operators"]
    assert declared


@needs("readelf")
@pytest.mark.parametrize("library", [hsm_export.custom_ops_path, kernels_path], ids=["onnxruntime", "torch"])
def test_nothing_but_the_c_library_is_linked(library: Callable[[], Path | None]) -> None:
    linked = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "--dynamic", str(library())))
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


@pytest.mark.slow
@needs("c++")
@needs("cmake")
def test_the_documented_program_runs(tmp_path: Path) -> None:
    if not (BUILD / "CMakeCache.txt").is_file():
        pytest.skip("ONNX Runtime's headers are known to the native build alone; `make cpp-test` makes it")
    (headers,) = re.findall(r"HSM_ONNXRUNTIME_INCLUDE_DIR:.*=(.*)", (BUILD / "CMakeCache.txt").read_text())
    (runtime,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
    (tmp_path / "libonnxruntime.so.1").symlink_to(runtime)
    documented = (ROOT / "docs" / "fused-kernels.md").read_text()
    (package,) = re.findall(r"```cmake\n(.*?)```", documented, re.DOTALL)
    (source,) = re.findall(r"```cpp\n(.*?)```", documented, re.DOTALL)
    (tmp_path / "main.cc").write_text(source)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(consumer LANGUAGES CXX)\nset(CMAKE_CXX_STANDARD 20)\n"
        f"{package}"
        f'target_include_directories(app PRIVATE "{headers}")\ntarget_link_libraries(app PRIVATE "{runtime}")\n'
    )
    build = tmp_path / "build"
    output("cmake", "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={hsm_export.cmake_prefix_path()}")
    output("cmake", "--build", build)
    model = tmp_path / "m.onnx"
    # Without its body only the library can run the node.
    proto = one_node_model("TokenShift", {"shifts": [1]})
    del proto.functions[:]
    model.write_bytes(proto.SerializeToString())
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([build / "app", model], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.returncode) == ("1 inputs\n", 0), done.stderr
