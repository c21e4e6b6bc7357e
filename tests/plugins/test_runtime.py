"""The C++ runtime as an application meets it: installed, with bundles, and programs built from an empty folder."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.exporter.building.hand_made import token_model
from tests.exporter.bundling.hostile import ACCEPTED, REFUSED, write_all
from tests.plugins.native import ROOT, needs, program

import hsm_export
import onnxruntime
from hsm_export.bundling import bundle
from hsm_export.native import find_library
from hsm_models import HSMConfig, LayerConfig, MLPConfig, ModelConfig, SwitchHeadConfig
from hsm_models.checkpoint import build_model, save_checkpoint

LIBRARY = find_library("libhsm_runtime.so")
# An installation elsewhere: what `cmake --install build/native --prefix FOLDER` wrote.
NAMED = os.environ.get("HSM_TEST_RUNTIME_PREFIX")
PREFIX = Path(NAMED) if NAMED else LIBRARY.parents[1] if LIBRARY else None
EXAMPLES = ROOT / "plugins" / "examples"
EXAMPLE_NAMES = sorted(path.name for path in EXAMPLES.iterdir())

pytestmark = pytest.mark.skipif(PREFIX is None, reason="this installation has no libhsm_runtime.so")


def run(*command: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    (runtime,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
    environment = {**os.environ, "HSM_ONNXRUNTIME_LIBRARY": str(runtime)}
    # An untrained model writes bytes that are no text.
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, errors="replace", input=text, env=environment
    )


def hsm_run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert PREFIX
    return run(PREFIX / "bin" / "hsm-run", *arguments)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    bundle(token_model(folder / "tokens.onnx"), folder / "good.hsm")
    return folder / "good.hsm"


@pytest.fixture(scope="module")
def language_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    torch.manual_seed(6)
    switch = SwitchHeadConfig(heads=2, head_dim=8, experts=4, active=2)
    layers = tuple(LayerConfig(mixer, MLPConfig(32)) for mixer in (HSMConfig(shifts=(1, 3)), switch))
    config = ModelConfig("language_model", 16, layers, vocab_size=256)
    save_checkpoint(build_model(config), folder / "source.safetensors")
    hsm_export.export(folder / "source.safetensors", output=folder / "lm.onnx")
    hsm_export.export(folder / "source.safetensors", output=folder / "decode.onnx", decode=True)
    bundle(folder / "lm.onnx", folder / "lm.hsm", decode=folder / "decode.onnx", against=folder / "source.safetensors")
    return folder / "lm.hsm"


def test_the_numbers_of_the_bundle(good: Path) -> None:
    done = hsm_run(good, "--self-test", "--bench", "10")
    assert done.returncode == 0, done.stderr
    assert "passed model." in done.stdout and "10 runs" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime-fused", "onnxruntime-bodies"])
def test_the_numbers_of_a_language_model(language_bundle: Path, backend: str) -> None:
    done = hsm_run(language_bundle, "--self-test", "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert "passed model.logits" in done.stdout and "passed decode.logits" in done.stdout


def test_wrong_numbers_are_seen(good: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other.hsm"
    shutil.copytree(good, copy)
    stored = bytearray((copy / "self-test.safetensors").read_bytes())
    (name,) = json.loads((copy / "manifest.json").read_text())["self_test"]["tolerances"]
    part, _, output = name.partition(".")
    size = int.from_bytes(stored[:8], "little")
    begin, end = json.loads(stored[8 : 8 + size])[f"{part}.outputs.{output}"]["data_offsets"]
    stored[8 + size + begin : 8 + size + end] = np.full((end - begin) // 4, 1e6, np.float32).tobytes()
    (copy / "self-test.safetensors").write_bytes(stored)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["self-test.safetensors"]["sha256"] = hashlib.sha256(stored).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    done = hsm_run(copy, "--self-test")
    assert done.returncode == 5, done.stderr
    assert f"FAILED {name}" in done.stdout


def test_both_readers_agree_on_bundles_from_anybody(good: Path, tmp_path: Path) -> None:
    write_all(good, tmp_path / "all")
    for path in sorted((tmp_path / "all" / REFUSED).glob("*.hsm")):
        done = hsm_run(path)
        assert done.returncode == 4, (path.name, done.stdout, done.stderr)
        assert done.stderr.rstrip("\n").isprintable() and len(done.stderr) < 600, path.name
    for path in (tmp_path / "all" / ACCEPTED).glob("*.hsm"):
        # Of a decoder of a stranger's making the self-test says nothing; opening a bundle looks at both parts.
        done = hsm_run(path, "--part", "model")
        assert done.returncode != 4, (path.name, done.stderr)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that builds an example in an empty folder, once, and returns its program."""

    @functools.cache
    def build(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        made = run(str(program("cmake")), "-S", EXAMPLES / name, "-B", folder, f"-DCMAKE_PREFIX_PATH={PREFIX}")
        assert made.returncode == 0, made.stderr
        compiled = run(str(program("cmake")), "--build", folder)
        assert compiled.returncode == 0, compiled.stdout
        return folder / name

    return build


@needs("c++")
@needs("cmake")
@pytest.mark.parametrize("name", EXAMPLE_NAMES)
def test_an_example_is_short_and_builds_from_the_installed_package(name: str, example: Callable[[str], Path]) -> None:
    assert example(name).is_file()
    (source,) = (EXAMPLES / name).glob("main.*")
    assert len(source.read_text().splitlines()) < 80


@pytest.mark.slow
@needs("c++")
@needs("cmake")
def test_the_examples_run(language_bundle: Path, example: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("generate", "generate_c"):
        generated = run(example(name), language_bundle, "Hi", "5")
        assert generated.returncode == 0 and generated.stdout.startswith("Hi"), generated.stderr
    served = run(example("serve_8_threads"), language_bundle, "20")
    assert served.returncode == 0 and "160 requests, 0 wrong" in served.stdout, served.stderr
    served = run(example("serve_requests"), language_bundle, "3", text="In the\nAnd God\nHi\nThe\n")
    assert served.returncode == 0 and "4 requests" in served.stderr, served.stderr
    assert sorted(line.split()[0] for line in served.stdout.splitlines() if line[:1].isdigit())[:4] == list("0123")
    for name in ("classify", "classify_c"):
        refused = run(example(name), tmp_path, text="1 2 3\n")
        assert refused.returncode == 1 and "manifest.json" in refused.stderr
