"""Engines of every zoo model on the GPU of this machine: plugins used, numbers right, files that load elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.gpu.zoo_files import MIXED, MODELS, PRECISIONS, profiles, zoo_file

import hsm_export
from hsm_export.building.portable.compiling import Log, Settings, load_plugins
from hsm_export.building.portable.device import Device
from hsm_export.building.portable.running import EngineRunner
from hsm_export.runtimes import get

pytestmark = pytest.mark.gpu
Record = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def _tensorrt() -> None:
    """Skip with the runtime's own reason where TensorRT or its plugins are missing."""
    reason = get("tensorrt").available()
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_every_node_becomes_a_plugin_and_the_numbers_are_right(
    name: str, precision: str, tmp_path: Path, record_property: Record
) -> None:
    built = hsm_export.build(
        zoo_file(name, precision), tmp_path / "m.engine", target="tensorrt", profiles=profiles(name)
    )
    record_property("plugin layers", len(built.plugins.layers) if built.plugins else 0)
    record_property("build seconds", built.build_seconds)
    record_property("engine bytes", built.engine_bytes)
    result = hsm_export.validate(zoo_file(name, precision), f"zoo:{name}", runtimes=["tensorrt"])
    for report in result.runtimes:
        for worst in report.worst:
            record_property(f"{report.runtime} error", f"{worst.errors.max_abs:.3g} of {worst.threshold.value:.3g}")
    assert result.passed, result.summary


@pytest.mark.parametrize("name", MIXED)
def test_function_bodies_build_too(name: str, tmp_path: Path, record_property: Record) -> None:
    built = hsm_export.build(
        zoo_file(name, "fp16"), tmp_path / "m.engine", target="tensorrt", profiles=profiles(name), plugins=False
    )
    assert built.plugins is None
    record_property("build seconds", built.build_seconds)


@pytest.mark.parametrize("name", MIXED)
def test_a_kit_goes_round(name: str, tmp_path: Path, record_property: Record) -> None:
    kit = hsm_export.write_kit(
        zoo_file(name, "fp32"), tmp_path / "kit", against=f"zoo:{name}", target="tensorrt", profiles=profiles(name)
    )
    done = subprocess.run([sys.executable, str(kit.kit / "build.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    taken = hsm_export.accept_kit(kit.kit / "result", tmp_path / "m.engine")
    assert taken.numbers is not None
    record_property("error", f"{taken.numbers.max_abs_error:.3g} of {taken.numbers.tolerance:.3g}")


def test_a_timing_cache_is_kept_between_builds(tmp_path: Path, record_property: Record) -> None:
    for name in ("first", "second"):
        built = hsm_export.build(
            zoo_file("hsm-lm", "fp16"),
            tmp_path / f"{name}.engine",
            target="tensorrt",
            profiles=profiles("hsm-lm"),
            timing_cache=tmp_path / "timing.cache",
        )
        record_property(f"{name} build seconds", built.build_seconds)
    assert (tmp_path / "timing.cache").stat().st_size > 0


@pytest.mark.parametrize("embedded", [False, True])
def test_a_version_compatible_engine_runs(embedded: bool, tmp_path: Path) -> None:
    """With embedded plugins a process needs no library: it is run in a process that never saw one."""
    name = "hsm-lm"
    built = hsm_export.build(
        zoo_file(name, "fp32"),
        tmp_path / "m.engine",
        target="tensorrt",
        profiles=profiles(name),
        version_compatible=True,
        embed_plugins=embedded,
    )
    library = None if embedded else str(hsm_export.tensorrt_plugin_path())
    program = f"import tests.gpu.test_engines as t; print(t.run_once({str(built.engine)!r}, {library!r}).shape)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 3, 256)"


def run_once(engine: str, library: str | None) -> Any:
    """Run an engine of a language model on three tokens and return its logits; `library` holds plugins to load."""
    import numpy as np

    import tensorrt

    log = Log(lambda severity, text: print(f"{severity}: {text}", file=sys.stderr))
    if library:
        load_plugins(tensorrt, Settings("TensorRT", plugin_libraries=[library]), log)
    return EngineRunner(tensorrt, Path(engine), Device(), log).run({"tokens": np.array([[1, 2, 3]])})["logits"]
