"""The user's own arrays as inputs: one check for every command."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dtypes import BY_NAME
from ..errors import BadInputError
from ..files import require_file
from ..formats.tensor import ANY_SHAPE, InputSpec
from ..onnx_model.input_bounds import looked_up
from ..onnx_model.limits import readable
from ..onnx_model.model_file import ModelFile
from ..onnx_model.shapes import infer, skeleton

Array = NDArray[Any]
_MOST_BYTES = 1 << 31
# What an array must hold, by the kind of the input, and the kinds of NumPy types that do.
_KINDS = {
    "bool": ("Booleans", "b"),
    "string": ("text", "USO"),
    "integer": ("integers", "iu"),
    "float": ("floating-point numbers", "f"),
    "complex": ("complex numbers", "c"),
}


def read_npz(path: Path) -> tuple[dict[str, Array], str]:
    """Return the arrays of an .npz file and its name.

    Raises:
        BadInputError: it cannot be read.
    """
    require_file(path, "the inputs file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}, path.name
    except (ValueError, OSError, EOFError, AttributeError, TypeError, MemoryError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{path} is not a readable .npz file: {error}", "write it with numpy.savez") from error


def given_feed(file: ModelFile, arrays: Mapping[str, Any], where: str) -> dict[str, Array]:
    """Return arrays in the types that runtimes are fed with.

    Floating-point numbers may be NaN or infinite, as masks are; integers may be any of their type unless the exporter
    recorded a range or they index a table; sizes may be 0. float16 and bfloat16 inputs become float32, which holds each
    of their numbers.

    Args:
        file: the opened file.
        arrays: one for each of its inputs, by name.
        where: names the arrays in errors.

    Raises:
        BadInputError: names are missing or unknown, or an array has the wrong type, shape or range.
    """
    require_runnable(file)
    expected = {spec.name for spec in file.inputs}
    if set(arrays) != expected:
        raise BadInputError(
            f"{where} holds the arrays {', '.join(sorted(arrays)) or 'none'}; the model's inputs are "
            f"{', '.join(sorted(expected))}",
            "name the arrays as the inputs: np.savez(path, name=array, …)",
        )
    sizes: dict[str, int] = {}
    feed = {}
    for spec in file.inputs:
        array = _typed(spec, np.asarray(arrays[spec.name]), where)
        _check_shape(spec, array, sizes, where)
        if "inputs" in file.metadata:
            _check_recorded(spec, array, sizes, where)
        elif spec.is_integer and array.size:
            rows = min(looked_up(file.model, spec.name, {}, certain=True), default=None)
            if rows is not None:  # ONNX counts from the end too
                _require(spec, array, (-rows, rows - 1), where)
        feed[spec.name] = array
    return feed


def require_runnable(file: ModelFile) -> None:
    """Refuse a file with inputs or outputs that cannot be fed or compared, or with a tensor larger than the memory.

    Raises:
        BadInputError: there is one.
    """
    file.require_tensors("only tensors are fed")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name, tensor in infer(skeleton(file.model), {}).items():
        if tensor.bytes > memory:
            raise BadInputError(
                f"{file.path}: the tensor {name} of shape {list(tensor.shape)} takes {readable(tensor.bytes)}, more "
                f"than the {readable(memory)} of this machine",
                "run it on a larger machine",
            )


def check_size(file: ModelFile, spec: InputSpec, shape: Sequence[int]) -> None:
    """Refuse to make up an array that would fill the memory.

    Raises:
        BadInputError: it has more than 2 GiB.
    """
    size = math.prod(shape) * BY_NAME[spec.dtype].bits // 8
    if size > _MOST_BYTES:
        raise BadInputError(
            f"{file.path}: input {spec.name} of shape {list(shape)} takes {readable(size)}; no random one is made",
            "give inputs of your own: --inputs data.npz",
        )


def random_others(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...]) -> Array:
    """Return random values of a type that holds neither integers nor floating-point numbers."""
    if spec.dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if spec.dtype == "string":
        return np.asarray(rng.integers(0, 100, shape).astype(str).astype(object))
    return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape), BY_NAME[spec.dtype].numpy)


def rounded(file: ModelFile, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Return a feed with its floating-point numbers rounded to the types of the inputs: every runtime gets the same.

    What NumPy has no type for (bfloat16) stays float32 of the rounded value.
    """
    kinds = {spec.name: BY_NAME[spec.dtype].numpy for spec in file.inputs if spec.is_float}
    with np.errstate(over="ignore"):
        return {
            name: array.astype(kinds[name]).astype(array.dtype) if name in kinds else array
            for name, array in feed.items()
        }


def _typed(spec: InputSpec, array: Array, where: str) -> Array:
    """Return the array in the type that runtimes are fed with."""
    kind = "integer" if spec.is_integer else "float" if spec.is_float else spec.dtype.rstrip("0123456789")
    words, letters = _KINDS[kind]
    own = BY_NAME[spec.dtype].numpy
    if array.dtype.kind == "V" and array.dtype.itemsize == own.itemsize:
        array = array.view(own)  # an .npz file keeps only the size of the types that NumPy does not have
    fits = array.dtype == own or array.dtype.kind in letters
    if not fits or (kind == "string" and not all(isinstance(item, str) for item in array.ravel())):
        raise BadInputError(f"{where}: {spec.name} must hold {words} ({spec.dtype}), got {array.dtype}")
    if kind == "integer" and array.size and array.dtype != own:
        _require(spec, array, _integer_bounds(spec.dtype), where)
    if kind == "float":
        return array.astype(np.float64 if spec.dtype == "float64" else np.float32)
    return array.astype(own)


def _integer_bounds(dtype: str) -> tuple[int, int]:
    bits = BY_NAME[dtype].bits
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _check_shape(spec: InputSpec, array: Array, sizes: dict[str, int], where: str) -> None:
    if spec.shape == ANY_SHAPE:
        return
    problem = BadInputError(f"{where}: {spec.name} must have shape {_text(spec)}, got {array.shape}")
    if array.ndim != len(spec.shape):
        raise problem
    for dim, size in zip(spec.shape, array.shape, strict=True):
        if size != (sizes.setdefault(dim, size) if isinstance(dim, str) else dim):
            raise problem


def _check_recorded(spec: InputSpec, array: Array, sizes: Mapping[str, int], where: str) -> None:
    """Hold integers to what the exporter recorded; the tokens that a row has read may be any number."""
    if not array.size:
        raise BadInputError(f"{where}: {spec.name} must have shape {_text(spec)} and elements, got {array.shape}")
    if not spec.is_integer or spec.name == "position":
        return
    high = spec.high
    if spec.is_lengths:
        others = max((size for name, size in sizes.items() if name not in spec.shape), default=None)
        high = spec.counts if isinstance(spec.counts, int) else sizes.get(spec.counts or "", others)
    _require(spec, array, (spec.low, high), where)


def _text(spec: InputSpec) -> str:
    return f"({', '.join(map(str, spec.shape))})"


def _require(spec: InputSpec, array: Array, bounds: tuple[int | None, int | None], where: str) -> None:
    low, high = bounds
    if (low is not None and array.min() < low) or (high is not None and array.max() > high):
        raise BadInputError(f"{where}: {spec.name} must lie in {low}…{high}, got {array.min()}…{array.max()}")
