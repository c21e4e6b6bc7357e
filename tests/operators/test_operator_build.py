"""`hsm-export operator build` and CMake's hsm_add_operators make libraries of anyone's operators."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.foreign import HAS_NVCC, SIGNATURE, needs_compilers

import hsm_export
from hsm_export.cli import run
from hsm_export.errors import BadInputError, MissingDependencyError, UsageError
from hsm_export.operators.building import build_operators
from hsm_operators import OperatorError
from hsm_operators.kernels import KernelLibrary
from hsm_operators.libraries import ADAPTERS, file_name, open_library
from tests import foreign

pytestmark = needs_compilers
ADAPTERS_HERE = tuple(ADAPTERS) if HAS_NVCC else ("onnxruntime", "kernels")


def test_every_library_says_what_it_holds() -> None:
    folder = foreign.built() / "lib"
    names = [file_name("scale_mix", adapter) for adapter in ADAPTERS_HERE]
    assert sorted(path.name for path in folder.glob("*.so")) == sorted(names)
    for name in names:
        assert open_library(folder / name).signatures == {SIGNATURE}


@pytest.mark.parametrize("kind", ["naive", "fast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_kernels_compute(kind: str, dtype: torch.dtype) -> None:
    hsm_export.load_operators(str(foreign.built()))
    from hsm_operators import find

    operator = find("foreign", "ScaleMix")
    assert operator is not None
    kernel = KernelLibrary(foreign.built() / "lib" / file_name("scale_mix", "kernels")).kernel(operator, kind)
    assert kernel is not None
    x, gain = torch.randn(2, 5, 3).to(dtype), torch.randn(3).to(dtype)
    (y,) = kernel([x, gain], {"times": 3})
    torch.testing.assert_close(y, (x.float() * (gain.float() * 3)).to(dtype))


def test_mistakes_are_named_and_cured_one_by_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = foreign.copy(tmp_path, "mistaken")
    (folder / "cuda.cu").unlink()
    right = (folder / "cpu.cc").read_text()
    (folder / "cpu.cc").write_text(right.replace("void scale_mix(", "void scaled_mix("))
    with pytest.raises(BadInputError, match=r"mistaken::ScaleMix has no function scale_mix in \S+mistaken$") as refusal:
        build_operators(folder, only=["torch"])
    assert "mistaken/args.gen.h" in str(refusal.value.hint)
    (folder / "cpu.cc").write_text(right.replace("args.length", "args.lenght"))
    with pytest.raises(BadInputError, match=r"the kernels do not compile: \S*mistaken/cpu.cc:14:\d+: .*lenght"):
        build_operators(folder, only=["torch"])
    assert not list((folder / "lib").glob("*.so"))
    (folder / "cpu.cc").write_text(right)
    assert run(["operator", "build", str(folder), "--only", "torch", "--name", "other", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    (library,) = result["libraries"]
    assert library["path"] == str(folder / "lib" / "libother_kernels.so") and result["left_out"] == {}
    assert library["operators"] == ["mistaken::ScaleMix"] and len(library["sha256"]) == 64
    assert [path.name for path in (folder / "lib").glob("*.so")] == ["libother_kernels.so"]


def test_what_is_required_and_has_no_kernels_is_refused(tmp_path: Path) -> None:
    folder = foreign.copy(tmp_path, "required")
    (folder / "cuda.cu").unlink()
    with pytest.raises(BadInputError, match="has no kernels for the required part onnxruntime_cuda"):
        build_operators(folder, require=["cuda"])
    with pytest.raises(UsageError, match="there is no part 'tenssort'"):
        build_operators(folder, only=["tenssort"])
    for name in ("hsm", "a-b", "1a"):
        with pytest.raises(UsageError, match="cannot be called"):
            build_operators(folder, name=name)
    for path in folder.glob("*.cc"):
        path.unlink()
    with pytest.raises(OperatorError, match=r"no operator of .* has kernels; write naive\.cc or cpu\.cc or "):
        build_operators(folder)


def test_without_cmake_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsm_export.operators.building._found", lambda _program: None)
    with pytest.raises(MissingDependencyError, match="cmake is not installed"):
        build_operators(foreign.copy(tmp_path, "without_cmake"))


def _configure(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(acme LANGUAGES CXX)\nfind_package(HsmPlugins REQUIRED)\n"
        "hsm_add_operators(acme FOLDER scale_mix ${CHOICE})\n"
    )
    prefix = f"-DCMAKE_PREFIX_PATH={hsm_export.cmake_prefix_path()}"
    command = ["cmake", "-S", folder, "-B", folder / "build", prefix, f"-DHSM_PYTHON={sys.executable}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_project_of_cmake_makes_them_too(tmp_path: Path) -> None:
    foreign.copy(tmp_path)
    done = _configure(tmp_path, "-DCHOICE=ADAPTERS;kernels;tensorrt;REQUIRED;tensorrt", "-DHSM_CUDA=OFF")
    assert done.returncode != 0
    assert "libacme_tensorrt.so cannot be built: HSM_CUDA is OFF" in " ".join(done.stderr.split())
    shutil.rmtree(tmp_path / "build")
    done = _configure(tmp_path, "-DCHOICE=ADAPTERS;kernels;tensorrt", "-DHSM_CUDA=OFF", "-DCMAKE_BUILD_TYPE=Debug")
    assert done.returncode == 0 and "libacme_tensorrt.so is left out: HSM_CUDA is OFF" in done.stdout, done.stderr
    subprocess.run(["cmake", "--build", tmp_path / "build"], check=True, capture_output=True)
    assert open_library(tmp_path / "build" / "libacme_kernels.so").signatures == {SIGNATURE}
    assert not (tmp_path / "build" / "libacme_tensorrt.so").exists()


FILE = """
import hsm_export

@hsm_export.operator("foreign::Twice", "x[B,T] -> y[B,T]")
def twice(x):
    return 2 * x

@hsm_export.operator("foreign::Bare", "x[B,T] -> y[B,T]")
def bare(x):
    return x
"""
KERNEL = """
#include "hsm_operators/common/types.h"
#include "twice/args.gen.h"

namespace hsm {
void twice_naive(const TwiceArgs& args) {
  for (std::int64_t i = 0; i < args.batch * args.length; ++i) {
    static_cast<float*>(args.y)[i] = 2 * static_cast<const float*>(args.x)[i];
  }
}
}  // namespace hsm
"""


def test_a_file_and_a_folder_are_built_together(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    foreign.copy(folder)
    (folder / "scale_mix" / "cuda.cu").unlink()
    (folder / "operators.py").write_text(FILE)
    (folder / "operators" / "twice").mkdir(parents=True)
    (folder / "operators" / "twice" / "naive.cc").write_text(KERNEL)
    # In a process of its own: its scale_mix is another folder than that of the other tests.
    program = "import sys; from hsm_export.cli import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "operator", "build", folder, "--only", "torch", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (library,) = json.loads(done.stdout)["libraries"]
    assert library["path"] == str(folder / "lib" / "libmine_kernels.so")
    assert library["operators"] == ["foreign::ScaleMix", "foreign::Twice"]
