"""Engines that are not what the manifest says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .changing import add, case, edit


def with_engine(bundle: Path, data: bytes = b"engine", **changes: Any) -> None:
    """Add an engine with its side file, described rightly but for the changes."""
    entry = {
        "file": "engines/a.engine",
        "of": "model",
        "target": "tensorrt",
        "version": "10.14.1",
        "architectures": ["sm86"],
        "plugins": True,
        "embedded_plugins": False,
        "profiles": [{"batch": {"min": 1, "opt": 1, "max": 8}}],
    }
    add(bundle, "engines/a.engine", data)
    add(bundle, "engines/a.engine.json", b"{}")
    edit(bundle, lambda manifest: manifest["engines"].append({**entry, **changes}))


@case
def engine_without_side_file(bundle: Path) -> None:
    with_engine(bundle)
    (bundle / "engines" / "a.engine.json").unlink()
    edit(bundle, lambda manifest: manifest["files"].pop("engines/a.engine.json"))


@case
def engine_outside_its_folder(bundle: Path) -> None:
    with_engine(bundle, file="model.onnx")


@case
def engine_that_is_not_listed(bundle: Path) -> None:
    with_engine(bundle, file="engines/b.engine")


@case
def engine_of_nothing(bundle: Path) -> None:
    with_engine(bundle, of="training")


@case
def engine_of_a_missing_part(bundle: Path) -> None:
    with_engine(bundle, of="decode")
    edit(bundle, lambda manifest: manifest.update(decode=None))


@case
def engine_of_unknown_target(bundle: Path) -> None:
    with_engine(bundle, target="openvino")


@case
def engine_of_strange_version(bundle: Path) -> None:
    with_engine(bundle, version="10; rm -rf /")


@case
def engine_of_strange_architecture(bundle: Path) -> None:
    with_engine(bundle, architectures=["sm86/../.."])


@case
def engine_twice(bundle: Path) -> None:
    with_engine(bundle)
    edit(bundle, lambda manifest: manifest["engines"].append(manifest["engines"][0]))


@case
def engine_whose_profile_shrinks(bundle: Path) -> None:
    with_engine(bundle, profiles=[{"batch": {"min": 8, "opt": 4, "max": 1}}])


@case
def engine_with_embedded_plugins_and_none(bundle: Path) -> None:
    with_engine(bundle, plugins=False, embedded_plugins=True)


@case
def engine_flag_is_a_number(bundle: Path) -> None:
    with_engine(bundle, plugins=1)
