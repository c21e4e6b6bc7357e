"""Hostile bundles, written from a good one: what both readers, Python's and C++'s, must refuse with one sentence.

    python -m tests.exporter.bundling.hostile GOOD.hsm FOLDER

writes FOLDER/accepted/NAME.hsm, each of which must be taken, and FOLDER/refused/NAME.hsm, which must be refused.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from . import engines, files, libraries, manifests, parts  # noqa: F401  (each adds its cases)
from .changing import CASES, MANIFEST, Case, add, edit, read, rewrite
from .engines import with_engine
from .libraries import with_library
from .parts import with_cpu_variant, with_state

__all__ = ["ACCEPTED", "CASES", "HARMLESS", "MANIFEST", "REFUSED", "edit", "write", "write_all"]

ACCEPTED, REFUSED = "accepted", "refused"

HARMLESS: dict[str, Case] = {
    "good": lambda bundle: None,
    "cpu-variant": with_cpu_variant,
    "engine": with_engine,
    "engine-for-newer-gpus": lambda bundle: with_engine(bundle, architectures=["sm80+"], version="11.4.0.106"),
    "engine-for-an-unknown-gpu": lambda bundle: with_engine(bundle, architectures=[], profiles=[]),
    "state": with_state,
    "state-of-the-first-schema": lambda bundle: with_state(bundle, schema=1),
    "state-that-grows": lambda bundle: with_state(
        bundle, tensor={"capacity_axis": 2, "rollback": "position", "shape": ["batch", 2, "capacity"]}
    ),
    "state-of-a-number-a-row": lambda bundle: with_state(
        bundle, tensor={"rollback": "snapshot", "shape": ["batch"], "dtype": "int64"}
    ),
    "library": with_library,
    "library-of-cuda": lambda bundle: with_library(
        bundle, file="libacme_onnxruntime_cuda.so", adapter="onnxruntime_cuda", operators=["acme.lab::A", "acme.lab::B"]
    ),
    "bytes": lambda bundle: edit(bundle, lambda manifest: manifest.update(tokenizer={"kind": "bytes"})),
    "more-weights": lambda bundle: add(bundle, "model.onnx.data", b"MZ, which weights may begin with"),
    "manifest-without-spaces": lambda bundle: rewrite(bundle, read(bundle)),
}


def write_all(good: Path, folder: Path) -> None:
    """Write the bundles to be taken and those to be refused into a folder."""
    for kind, cases in ((ACCEPTED, HARMLESS), (REFUSED, CASES)):
        (folder / kind).mkdir(parents=True)
        for name, change in cases.items():
            write(good, folder / kind / f"{name}.hsm", change)


def write(good: Path, target: Path, change: Case) -> Path:
    """Write one bundle; returns its folder."""
    shutil.copytree(good, target, symlinks=True)
    change(target)
    return target
