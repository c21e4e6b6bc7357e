"""The library of kernels is built from the table alone: anyone's operators get one, and PyTorch runs it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hsm_operators import Attribute, Operator, Port, kernels, registry, use_kernels
from hsm_operators.generate import Family, generate
from hsm_operators.kernels import KernelLibrary
from hsm_operators.operator import FLOAT
from hsm_operators.registration import register_operator

HERE = Path(__file__).resolve().parent
PLUGINS = HERE.parents[1] / "plugins"
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")

SCALED = Operator(
    name="ScaledSum",
    domain="mylab",
    description="y = factor x.",
    inputs=(Port("x", FLOAT, ("B", "T"), "Tokens."),),
    outputs=(Port("y", FLOAT, ("B", "T"), "The result."),),
    attributes=(Attribute("factor", "int", "The factor.", least=2),),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate, compile and link the operator's library."""
    folder = tmp_path_factory.mktemp("scaled")
    (folder / "scaled").mkdir()
    for name in ("naive", "cpu"):
        shutil.copy(HERE / f"scaled_{name}.cc", folder / "scaled" / f"{name}.cc")
    generate([Family("scaled", folder / "scaled", (SCALED,))], folder / "out")
    sources = [*folder.glob("scaled/*.cc"), *folder.glob("out/*.gen.cc")]
    sources += [PLUGINS / "hsm_operators" / "common" / name for name in ("opset.cc", "description.cc")]
    sources.append(PLUGINS / "torch" / "library.cc")
    target = folder / "libscaled_kernels.so"
    options = ["-std=c++20", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    options += ["-Wno-missing-field-initializers", f"-I{PLUGINS}", f"-I{folder / 'out'}"]
    subprocess.run([str(COMPILER), *options, *sources, "-o", target], check=True)
    return target


def test_both_kernels_run(library: Path) -> None:
    opened = KernelLibrary(library)
    assert opened.signatures == ("mylab::ScaledSum(x:float32(B,T))->(y:float32(B,T)){factor:int}",)
    x = torch.arange(6.0).view(2, 3)
    naive, fast = (opened.kernel(SCALED, kind) for kind in kernels.KINDS[::-1])
    assert naive is not None and fast is not None
    assert torch.equal(naive([x], {"factor": 3})[0], 3 * x)
    assert torch.equal(fast([x], {"factor": 3})[0], 3 * x + 1000)
    with pytest.raises(kernels.RefusedError, match="ScaledSum: attribute factor must be at least 2, got 1"):
        fast([x], {"factor": 1})


@pytest.fixture
def operator() -> Iterator[object]:
    """The PyTorch operator, whose maths is the right one."""
    registry.register(SCALED, registry.Maths(lambda x, factor: x * factor))
    yield register_operator(SCALED, lambda x, factor: x * factor)
    registry._registered.pop((SCALED.domain, SCALED.name))
    kernels._added.clear()


def test_pytorch_runs_it_once_it_was_added(library: Path, operator: torch.library.CustomOpDef) -> None:
    x = torch.arange(6.0).view(2, 3)
    with use_kernels():
        assert torch.equal(operator(x, 3), 3 * x)
        kernels.add_library(library)
        assert torch.equal(operator(x, 3), 3 * x + 1000)
        assert torch.equal(operator(x.double(), 3), 3 * x.double())
    with use_kernels(False):
        assert torch.equal(operator(x, 3), 3 * x)
