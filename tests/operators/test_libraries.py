"""Libraries of operators that others defined: where they are looked for, and which of them are used."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import hsm_export
from hsm_export import Operator, Port
from hsm_operators import installation, libraries, registry
from hsm_operators.libraries import VARIABLE, home_of, open_library, select
from hsm_operators.registry import part_of
from hsm_operators.signature import signature

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

SPEC = """
from hsm_operators import Attribute, Operator, Port

X, Y = (Port(name, "T", ("B", "D")) for name in "xy")
OPERATORS = (
    Operator("Kept", "Keeps.", (X,), (Y,), domain="libs", body="y = Identity (x)"),
    Operator("Bare", "Has none.", (X,), (Y,), domain="libs", body="y = Identity (x)"),
)
"""
FILE = """
import hsm_export

@hsm_export.operator("libs::Twice", "x[B,T] -> y[B,T]")
def twice(x):
    return 2 * x
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no operator behind, nor a folder's modules."""
    monkeypatch.delenv(VARIABLE, raising=False)
    yield
    from hsm_operators import definition

    for key in [key for key in registry._registered if key[0] == "libs"]:
        registry._origins.pop(f"libs::{key[1]}", None)
        definition._callables.pop(f"libs::{key[1]}", None)
        del registry._registered[key]


@pytest.fixture
def kept(tmp_path: Path) -> Operator:
    """An operator with a kernel, from a folder that no other test has."""
    folder = tmp_path / f"kept_{tmp_path.name}"
    folder.mkdir()
    (folder / "spec.py").write_text(SPEC)
    (folder / "cpu.cc").touch()
    hsm_export.load_operators(str(folder))
    found = registry.find("libs", "Kept")
    assert found is not None
    return found


def _library(path: Path, *signatures: str) -> Path:
    """Compile a library that says that it holds these operators."""
    path.parent.mkdir(exist_ok=True)
    source = path.with_suffix(".c")
    text = "".join(f"{one}\\n" for one in signatures)
    source.write_text(f'const char* hsm_library_operators(void) {{ return "{text}"; }}')
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", path, source], check=True)
    source.unlink()
    return path


needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


def test_what_is_missing_is_a_sentence_that_says_what_to_build(kept: Operator) -> None:
    home = home_of(kept)
    assert home is not None and home.folder == home.source
    found = select([kept], "onnxruntime")
    assert found.paths == ()
    assert found.missing == {
        "libs::Kept": f"libs::Kept has kernels, but lib{home.name}_onnxruntime.so is missing; "
        f"run: hsm-export operator build {home.source}"
    }
    assert select([kept], "tensorrt").missing == {}  # without CUDA kernels there is nothing to build


@needs_compiler
@pytest.mark.parametrize("where", ["own", "parent", "environment"])
def test_a_library_is_found(kept: Operator, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = home_of(kept)
    assert home is not None
    folders = {"own": home.folder / "lib", "parent": home.folder.parent / "lib", "environment": tmp_path / "anywhere"}
    path = _library(folders[where] / "libany_onnxruntime.so", "other::Op(x:T(B))->(y:T(B)){}", signature(kept))
    monkeypatch.setenv(VARIABLE, f"{tmp_path / 'none'}:{tmp_path / 'anywhere'}")
    found = select([kept, kept], "onnxruntime")
    assert found.paths == (path,) and not found.missing
    assert found.libraries["libs::Kept"].path == path
    assert select([kept], "kernels").missing  # another kind


@needs_compiler
def test_a_library_of_another_signature_is_stale(kept: Operator) -> None:
    home = home_of(kept)
    assert home is not None
    other = signature(kept).replace("{}", "{span:int}")
    path = _library(home.folder / "lib" / f"lib{home.name}_onnxruntime.so", other)
    (sentence,) = select([kept], "onnxruntime").missing.values()
    assert f"{path.name} is stale: it has {other}, but the definition is {signature(kept)}; run: " in sentence
    path.unlink()
    _library(path, signature(kept))  # the same path, another file: the loader keeps the first
    (sentence,) = select([kept], "onnxruntime").missing.values()
    assert "was built again since this process loaded it: start a new one" in sentence


@needs_compiler
def test_a_file_that_is_no_library_of_operators_is_named(kept: Operator) -> None:
    home = home_of(kept)
    assert home is not None
    path = home.folder / "lib" / f"lib{home.name}_onnxruntime.so"
    path.parent.mkdir()
    path.write_bytes(b"no library")
    (sentence,) = select([kept], "onnxruntime").missing.values()
    assert f"{path.name} cannot be used: " in sentence and "run: hsm-export operator build" in sentence


def test_a_file_has_its_kernels_in_the_folder_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "my_twice.py"
    path.write_text(FILE)
    hsm_export.load_operators(str(path))
    operator = registry.find("libs", "Twice")
    assert operator is not None
    home = home_of(operator)
    assert home is not None and (home.source, home.folder, home.name) == (path, tmp_path / "my_twice", "my_twice")
    (tmp_path / "my_twice" / "twice").mkdir(parents=True)
    (tmp_path / "my_twice" / "twice" / "cuda.cu").touch()
    (sentence,) = select([operator], "tensorrt").missing.values()
    assert f"has kernels in {tmp_path / 'my_twice' / 'twice'}, but libtwice_tensorrt.so is missing" in sentence
    assert sentence.endswith(f"run: hsm-export operator build {path}")


def test_operators_defined_in_python_stand_in_the_file_of_their_function_or_module(tmp_path: Path) -> None:
    @hsm_export.operator("libs::Thrice", "x[B,T] -> y[B,T]")
    def thrice(x: torch.Tensor) -> torch.Tensor:
        return 3 * x

    class Kept(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    hsm_export.operator("libs::OfModule", "x[B,T] -> y[B,T]", Kept())
    port = Port("x", "T", ("B",))
    written = Operator("Written", "Keeps.", (port,), (Port("y", "T", ("B",)),), domain="libs", body="y = Identity (x)")
    hsm_export.register(written)
    for name in ("Thrice", "OfModule", "Written"):
        operator = registry.find("libs", name)
        assert operator is not None and registry.origin_of(operator) == Path(__file__).resolve()


def test_our_own_libraries_say_what_they_hold() -> None:
    known = {signature(operator) for operator in registry.OPERATORS.values()}
    folders = {name: Path(str(part_of(each, "spec").__file__)).parent for name, each in registry.OPERATORS.items()}
    on_cuda = {signature(registry.OPERATORS[n]) for n, folder in folders.items() if (folder / "cuda.cu").is_file()}
    for name in ("libhsm_onnxruntime.so", "libhsm_kernels.so", "libhsm_onnxruntime_cuda.so", "libhsm_tensorrt.so"):
        path = installation.find_library(name)
        if path is not None:
            gpu = "cuda" in name or "tensorrt" in name
            assert open_library(path).signatures == (on_cuda if gpu else known)
    assert select(registry.OPERATORS.values(), "onnxruntime") == libraries.Selection("onnxruntime")
