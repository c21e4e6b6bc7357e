"""A bundle of somebody else's operator: it names the library with its digest, and every reader holds to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from tests.exporter.bundling.test_schema import SCHEMA
from tests.foreign import DOMAIN, MARK, NAME, needs_compilers, needs_nvcc
from tests.operators.test_foreign_libraries import OPERATOR, folder, model, tagger, without

import hsm_export
from hsm_export.cli import run
from hsm_export.errors import HsmExportError, MissingDependencyError
from hsm_export.files import sha256
from hsm_export.formats.bundle_manifest import LIBRARIES_SCHEMA, parse_manifest
from hsm_export.native import custom_ops_path, run_program_path
from hsm_export.runtimes import get
from hsm_export.runtimes.cpp import onnxruntime_library
from hsm_operators import registry
from hsm_operators.libraries import VARIABLE

__all__ = ["folder", "model", "without"]
pytestmark = needs_compilers
LIBRARY = "libscale_mix_onnxruntime.so"


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's bundle."""
    target = tmp_path_factory.mktemp("bundle") / "tagger.hsm"
    result = hsm_export.bundle(model, target, against=tagger())
    assert LIBRARY in result.libraries and not result.notes
    return target


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here has registered the operator."""
    monkeypatch.delitem(registry._registered, (DOMAIN, NAME))
    monkeypatch.delitem(registry._origins, OPERATOR)


def test_the_manifest_names_the_libraries_and_the_bundle_carries_none(made: Path, folder: Path) -> None:
    text = (made / "manifest.json").read_bytes()
    manifest = parse_manifest(text, "manifest.json")
    assert manifest.schema == LIBRARIES_SCHEMA
    entry = next(entry for entry in manifest.libraries if entry.file == LIBRARY)
    assert entry.adapter == "onnxruntime" and entry.operators == (OPERATOR,)
    assert entry.sha256 == sha256(folder / "lib" / LIBRARY)
    assert not list(made.rglob("*.so"))
    assert parse_manifest(manifest.to_json().encode(), "manifest.json") == manifest
    import json

    jsonschema.validate(json.loads(text), SCHEMA)


def test_it_is_verified_with_its_library(made: Path, folder: Path) -> None:
    found = hsm_export.verify_bundle(made, self_test="ort-fused")
    assert found.libraries[LIBRARY] == folder / "lib" / LIBRARY and found.checks


def test_the_self_test_runs_the_named_library(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "1")
    with pytest.raises(HsmExportError, match=r"the self-test of .* fails in ort-fused"):
        hsm_export.verify_bundle(made, self_test="ort-fused")


def test_a_missing_library_is_named(made: Path, unknown: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingDependencyError, match=f"the bundle needs {LIBRARY}, which runs {OPERATOR}; it is not"):
        hsm_export.verify_bundle(made)
    assert run(["bundle", "--verify", str(made)]) == 3
    assert VARIABLE in capsys.readouterr().err


def test_another_library_of_that_name_is_refused(
    made: Path, folder: Path, unknown: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / LIBRARY
    other.write_bytes((folder / "lib" / LIBRARY).read_bytes() + b"\0")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(MissingDependencyError, match=f"{LIBRARY} is not the bundle's .*: its SHA-256 differs"):
        hsm_export.verify_bundle(made)
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path), str(folder / "lib")]))
    assert hsm_export.verify_bundle(made).libraries[LIBRARY] == folder / "lib" / LIBRARY


def test_a_session_of_a_bundles_file_holds_to_its_libraries(
    made: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = {"frames": np.zeros((1, 2, 16), np.float32)}
    monkeypatch.setenv(MARK, "1")
    other = tmp_path / LIBRARY
    other.write_bytes((folder / "lib" / LIBRARY).read_bytes() + b"\0")
    # Of two libraries of that name, the bundle's is run; with another one alone, none is.
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (marked,) = hsm_export.session(made / "model.onnx").run(None, frames)
    assert np.abs(marked).max() > 100
    monkeypatch.delitem(registry._registered, (DOMAIN, NAME))
    monkeypatch.delitem(registry._origins, OPERATOR)
    with pytest.raises(MissingDependencyError, match="its SHA-256 differs"):
        hsm_export.session(made / "model.onnx")
    result = hsm_export.validate(made / "model.onnx", runtimes=["ort-fused"])
    assert not result.passed and any("its SHA-256 differs" in problem for problem in result.problems)
    other.unlink()
    (plain,) = hsm_export.session(made / "model.onnx").run(None, frames)
    assert np.abs(plain).max() < 100


def test_without_libraries_a_bundle_is_of_the_first_schema_and_says_what_to_build(
    model: Path, without: None, tmp_path: Path
) -> None:
    result = hsm_export.bundle(model, tmp_path / "bare.hsm")
    assert result.libraries == {}
    assert any("libscale_mix_onnxruntime.so is missing; run: " in note for note in result.notes)
    manifest = parse_manifest((tmp_path / "bare.hsm" / "manifest.json").read_bytes(), "manifest.json")
    assert manifest.schema == 1 and b"libraries" not in (tmp_path / "bare.hsm" / "manifest.json").read_bytes()


def hsm_run(bundle: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the C++ runtime's program on a bundle, without what this process knows of libraries."""
    reason = get("cpp").available()
    if reason:
        pytest.skip(reason)
    command = [run_program_path(), bundle, "--kernels", custom_ops_path(), *arguments]
    known = {name: value for name, value in os.environ.items() if name not in (VARIABLE, MARK)}
    environment = {**known, "HSM_ONNXRUNTIME_LIBRARY": str(onnxruntime_library()), **environment}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)


FUSED = ("--backend", "onnxruntime-fused", "--self-test")


def test_the_cpp_runtime_finds_it_by_option_and_environment(made: Path, folder: Path) -> None:
    libraries = folder / "lib"
    assert hsm_run(made, *FUSED, "--libraries", f"/nowhere:{libraries}").returncode == 0
    assert hsm_run(made, *FUSED, **{VARIABLE: f"/nowhere:{libraries}"}).returncode == 0
    marked = hsm_run(made, *FUSED, **{VARIABLE: str(libraries), MARK: "1"})
    assert marked.returncode == 5, marked.stderr  # its kernel ran, and gave other numbers


def test_the_cpp_runtime_refuses_a_missing_or_another_library(made: Path, folder: Path, tmp_path: Path) -> None:
    missing = hsm_run(made, *FUSED)
    assert missing.returncode == 3
    assert f"{LIBRARY}, which runs {OPERATOR}, is not installed here; install the library" in missing.stderr
    (tmp_path / LIBRARY).write_bytes((folder / "lib" / LIBRARY).read_bytes() + b"\0")
    other = hsm_run(made, *FUSED, "--libraries", tmp_path)
    assert other.returncode == 3 and "its SHA-256 differs" in other.stderr
    both = hsm_run(made, *FUSED, "--libraries", f"{tmp_path}:{folder / 'lib'}")
    assert both.returncode == 0, both.stderr
    # Without that back end, the body runs, and the message says why.
    bodies = hsm_run(made, "--self-test")
    assert bodies.returncode == 0 and "is not installed here" in bodies.stderr


def test_the_cpp_runtime_validates_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = get("cpp").available()
    if reason:
        pytest.skip(reason)
    result = hsm_export.validate(model, against=tagger(), runtimes=["cpp"])
    assert result.passed and not any("body" in note for note in result.notes)
    monkeypatch.setenv(MARK, "1")
    wrong = hsm_export.validate(model, against=tagger(), runtimes=["cpp"])
    assert not wrong.passed and {item.runtime for item in wrong.failures} == {"cpp"}


@needs_nvcc
def test_an_engines_plugins_are_named_by_the_digest_that_it_was_built_with(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    plugins = "libscale_mix_tensorrt.so"
    built = hsm_export.build(model, tmp_path / "m.engine", architectures=["sm86"], plugins=True)
    result = hsm_export.bundle(model, tmp_path / "m.hsm", engines=[built.engine])
    assert result.libraries[plugins] == sha256(folder / "lib" / plugins)
    manifest = parse_manifest((tmp_path / "m.hsm" / "manifest.json").read_bytes(), "manifest.json")
    (entry,) = [entry for entry in manifest.libraries if entry.file == plugins]
    assert entry.adapter == "tensorrt" and entry.operators == (OPERATOR,)


def test_triton_loads_its_custom_op_library(model: Path, folder: Path, tmp_path: Path) -> None:
    hsm_export.write_repository(model, tmp_path / "repository", libraries="/opt/libraries")
    config = (tmp_path / "repository" / "tagger" / "config.pbtxt").read_text()
    assert f'op_library_filename: "/opt/libraries/{LIBRARY}"' in config.replace("[", "").replace("\n", " ")
