"""Libraries of operators that are not ours, which a manifest names otherwise than it may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .changing import case, edit


def with_library(bundle: Path, count: int = 1, **changes: Any) -> None:
    """Name a library, described rightly but for the changes, so often."""
    entry = {
        "file": "libacme_onnxruntime.so",
        "adapter": "onnxruntime",
        "sha256": "0" * 64,
        "operators": ["acme::DecayMix"],
    }
    edit(bundle, lambda manifest: manifest.update(schema=2, libraries=[{**entry, **changes}] * count))


@case
def library_in_another_folder(bundle: Path) -> None:
    with_library(bundle, file="../libacme_onnxruntime.so")


@case
def library_with_a_path(bundle: Path) -> None:
    with_library(bundle, file="/lib/libacme_onnxruntime.so")


@case
def library_of_another_adapter(bundle: Path) -> None:
    with_library(bundle, adapter="tensorrt")


@case
def library_of_the_cpu_that_is_cudas(bundle: Path) -> None:
    with_library(bundle, file="libacme_onnxruntime_cuda.so")


@case
def library_of_an_unknown_adapter(bundle: Path) -> None:
    with_library(bundle, file="libacme_openvino.so", adapter="openvino")


@case
def library_called_as_ours(bundle: Path) -> None:
    with_library(bundle, file="libhsm_x_onnxruntime.so")


@case
def library_with_a_long_name(bundle: Path) -> None:
    with_library(bundle, file=f"lib{'a' * 4000}_onnxruntime.so")


@case
def library_without_a_sum(bundle: Path) -> None:
    with_library(bundle, sha256="")


@case
def library_without_operators(bundle: Path) -> None:
    with_library(bundle, operators=[])


@case
def library_of_a_strange_operator(bundle: Path) -> None:
    with_library(bundle, operators=["acme::Decay\x1b[2JMix"])


@case
def library_with_a_secret(bundle: Path) -> None:
    with_library(bundle, load="at once")


@case
def library_twice(bundle: Path) -> None:
    with_library(bundle, 2)


@case
def no_library_in_the_second_schema(bundle: Path) -> None:
    with_library(bundle, 0)


@case
def second_schema_without_libraries(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(schema=2))


@case
def library_in_the_first_schema(bundle: Path) -> None:
    with_library(bundle)
    edit(bundle, lambda manifest: manifest.update(schema=1))
