"""The program of a build kit: check the kit, build the engine, run it, judge its numbers, write the result folder.

Exit codes are those of hsm-export: 0 good, 3 something is missing here, 4 the kit is damaged, 5 the numbers differ,
6 the build was refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .compiling import Compiled, Log, RefusedError, Settings, compile_network, load_plugins
from .device import Device
from .judging import Verdict, arrays_of, judge
from .linking import search_path
from .running import EngineRunner

KIT_FILE = "kit.json"
NETWORK = "network.onnx"
REFERENCES = "validation.npz"
ENGINE = "model.engine"
OUTPUTS = "outputs.npz"
RESULT_FILE = "result.json"
RESULT_SCHEMA, RESULT_VERSION = "hsm-export.kit-result", 1

_CODES = {"missing": 3, "damaged": 4, "differs": 5}
# Holds the folder of links once a process was started with it.
_LINKED = "HSM_KIT_LINKS"


def main(kit: Path, arguments: Sequence[str] | None = None) -> int:
    """Run a kit; returns the exit code.

    Args:
        kit: the kit's folder.
        arguments: the command line; None takes the process's own.
    """
    options = _parser().parse_args(arguments)
    try:
        manifest = read_kit(kit)
        _relink(manifest)
        result = kit / options.result
        result.mkdir(exist_ok=True)
        verdicts = _build_and_run(kit, manifest, result, options)
    except RefusedError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return _CODES.get(error.kind, 6)
    finally:
        shutil.rmtree(os.environ.get(_LINKED, ""), ignore_errors=True)
    return _tell(verdicts, result)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Build, run and check the engine of this kit.")
    parser.add_argument("--result", default="result", help="folder for the result, inside the kit [default: result]")
    parser.add_argument("--engine", type=Path, help="check this engine, built with trtexec, instead of building one")
    parser.add_argument("--build-only", action="store_true", help="do not run the engine: nothing is proved then")
    parser.add_argument("--timing-cache", type=Path, help="file that keeps measured times between builds")
    parser.add_argument("-v", "--verbose", action="store_true", help="show TensorRT's warnings")
    return parser


def read_kit(kit: Path) -> dict[str, Any]:
    """Return a kit's manifest after checking every file of the kit against it.

    Raises:
        RefusedError: a file is missing or was changed, or the manifest is not one.
    """
    try:
        manifest: dict[str, Any] = json.loads((kit / KIT_FILE).read_text(encoding="utf-8"))
        files = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefusedError(f"{kit / KIT_FILE} is not a kit's manifest: {error}", "damaged", "copy it again") from error
    for name, expected in files.items():
        path = kit / name
        if not path.resolve().is_relative_to(kit.resolve()):
            raise RefusedError(f"{kit / KIT_FILE} names the file {name}, outside the kit", "damaged")
        if not path.is_file():
            raise RefusedError(f"the kit's file {path} is missing", "damaged", "copy the kit again")
        if digest(path) != expected:
            raise RefusedError(f"{path} was changed: its SHA-256 is not the kit's", "damaged", "copy the kit again")
    return manifest


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def _relink(manifest: Mapping[str, Any]) -> None:
    """Start again with TensorRT-RTX linked by the name under which its parser looks for plugins."""
    if manifest["module"] != "tensorrt_rtx" or not manifest["settings"]["plugin_libraries"] or _LINKED in os.environ:
        return
    links = tempfile.mkdtemp(prefix="hsm-kit-")
    changes = search_path(Path(links), os.environ)
    if changes:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **changes, _LINKED: links})
    Path(links).rmdir()


def _build_and_run(
    kit: Path, manifest: Mapping[str, Any], result: Path, options: argparse.Namespace
) -> list[Verdict] | None:
    """Leave engine, outputs and result.json in the result folder; returns the verdicts, None when nothing was run."""
    trt = _load(manifest)
    settings = _settings(kit, manifest, options)
    messages: list[tuple[str, str]] = []
    log = Log(lambda severity, text: _note(messages, severity, text, options.verbose))
    started = time.monotonic()
    device = None if options.build_only else Device()
    facts = _engine(trt, kit, settings, result / ENGINE, log, options.engine)
    seconds = round(time.monotonic() - started, 3)
    verdicts = None
    if device is not None:
        outputs = _run(trt, kit, manifest, result / ENGINE, device, log)
        np.savez(result / OUTPUTS, **outputs)
        verdicts = judge(manifest["cases"], _arrays(kit), outputs)
    written = [name for name in (ENGINE, OUTPUTS) if name == ENGINE or verdicts is not None]
    _write(
        result / RESULT_FILE,
        {
            "schema": RESULT_SCHEMA,
            "schema_version": RESULT_VERSION,
            "kit_sha256": digest(kit / KIT_FILE),
            "files": {name: digest(result / name) for name in written},
            "facts": facts,
            "gpu": device.name if device else None,
            "build_seconds": seconds,
            "verdicts": [_described(verdict) for verdict in verdicts or []],
            "warnings": [text for severity, text in messages if severity == "warning"],
        },
    )
    return verdicts


def _load(manifest: Mapping[str, Any]) -> Any:
    try:
        return importlib.import_module(manifest["module"])
    except ImportError as error:
        raise RefusedError(
            f"the Python package {manifest['module']} cannot be loaded: {error}",
            "missing",
            f"pip install {manifest['package']} numpy",
        ) from error


def _settings(kit: Path, manifest: Mapping[str, Any], options: argparse.Namespace) -> Settings:
    settings = Settings.from_dict(manifest["settings"])
    return dataclasses.replace(
        settings,
        plugin_libraries=[str((kit / library).resolve()) for library in settings.plugin_libraries],
        timing_cache=str(options.timing_cache.resolve()) if options.timing_cache else None,
    )


def _note(messages: list[tuple[str, str]], severity: str, text: str, verbose: bool) -> None:
    messages.append((severity, text))
    if verbose or severity != "warning":
        print(f"{severity}: {text}", file=sys.stderr)


def _engine(trt: Any, kit: Path, settings: Settings, target: Path, log: Log, ready: Path | None) -> dict[str, Any]:
    """Build the engine, or take one that trtexec built, which then says nothing of its layers."""
    if ready is not None:
        if settings.plugin_libraries and not settings.embed_plugins:
            load_plugins(trt, settings, log)
        if ready.resolve() != target.resolve():
            target.write_bytes(ready.read_bytes())
        return Compiled(None, trt.__version__, {}, {}, 0, ()).facts()
    network = kit / NETWORK
    compiled = compile_network(trt, network.read_bytes(), str(network), settings, _phase, log)
    target.write_bytes(memoryview(compiled.engine))
    return compiled.facts()


def _phase(text: str) -> None:
    print(f"{text} …", file=sys.stderr)


def _run(trt: Any, kit: Path, manifest: Mapping[str, Any], engine: Path, device: Device, log: Log) -> dict[str, Any]:
    """Return the outputs of every case, named `case0.output.logits`."""
    _phase(f"running {len(manifest['cases'])} cases on {device.name}")
    runner = EngineRunner(trt, engine, device, log)
    references = _arrays(kit)
    outputs = {}
    for index in range(len(manifest["cases"])):
        for name, array in runner.run(arrays_of(references, index, "input")).items():
            outputs[f"case{index}.output.{name}"] = array
    return outputs


def _arrays(kit: Path) -> dict[str, Any]:
    with np.load(kit / REFERENCES, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _described(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON data, in which an infinite error is "inf"."""
    numbers = {name: getattr(verdict, name) for name in ("error", "tolerance")}
    finite = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
    return {**dataclasses.asdict(verdict), **finite}


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _tell(verdicts: Sequence[Verdict] | None, result: Path) -> int:
    if verdicts is None:
        print(f"{result}: built, not run: the kit's result is not complete without its numbers")
        return 0
    for verdict in verdicts:
        state = verdict.problem or f"error {verdict.error:.3g}, tolerance {verdict.tolerance:.3g}"
        print(f"{'FAIL' if verdict.problem else 'pass'}  {verdict.case}: {verdict.output}: {state}")
    failed = any(verdict.problem for verdict in verdicts)
    print(
        f"{result}: {'the numbers differ' if failed else 'copy this folder back and run hsm-export build --from-kit'}"
    )
    return _CODES["differs"] if failed else 0
