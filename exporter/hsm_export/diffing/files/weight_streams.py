"""Numbers of initialisers, piece by piece: neither a file's weights nor a whole tensor need fit into memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from ...dtypes import element_name
from ...errors import BadInputError

Array = NDArray[Any]

_PIECE = 1 << 20  # elements
# Types that are stored as one array of whole bytes; the others are few and small.
_PACKED = frozenset((TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1, TensorProto.STRING))


@dataclass(frozen=True)
class Weight:
    """An initialiser.

    Attributes:
        tensor: its description; external data is not loaded.
        folder: the directory that its external data is relative to.
    """

    tensor: TensorProto
    folder: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""
        return tuple(int(size) for size in self.tensor.dims)

    @property
    def type_name(self) -> str:
        """Such as "float32" or "bfloat16"."""
        return element_type_name(self.tensor.data_type)

    @property
    def is_numeric(self) -> bool:
        """Whether it holds numbers that can be subtracted."""
        return self.tensor.data_type != TensorProto.STRING

    def array(self) -> Array:
        """Return the numbers: external data as a memory map, anything else as an array.

        Raises:
            BadInputError: the bytes are not as many as the shape says.
        """
        if self.tensor.data_location == TensorProto.EXTERNAL:
            return self._mapped()
        if self.tensor.data_type in _PACKED or not self.tensor.raw_data:
            array: Array = numpy_helper.to_array(self.tensor)
            return array
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.tensor.data_type)
        return self._shaped(np.frombuffer(self.tensor.raw_data, dtype))

    def pieces(self) -> Iterator[Array]:
        """Yield the numbers in order, flat, so many at a time; external data is read, so that no page of it stays."""
        flat = self.array().reshape(-1)
        if not isinstance(flat, np.memmap):
            yield from (flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE))
            return
        with self._path.open("rb") as file:
            file.seek(flat.offset)
            for start in range(0, flat.size, _PIECE):
                yield np.fromfile(file, flat.dtype, min(_PIECE, flat.size - start))

    @property
    def _entries(self) -> dict[str, str]:
        return {entry.key: entry.value for entry in self.tensor.external_data}

    @property
    def _path(self) -> Path:
        return self.folder / self._entries.get("location", "")

    def _mapped(self) -> Array:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.tensor.data_type)
        if not math.prod(self.shape):
            return np.zeros(self.shape, dtype)
        try:
            offset = int(self._entries.get("offset", "0") or 0)
            if self.tensor.data_type in _PACKED:  # two numbers a byte
                return np.memmap(self._path, np.uint8, "r", offset, ((math.prod(self.shape) + 1) // 2,))
            return np.memmap(self._path, dtype, "r", offset, self.shape)
        except (OSError, ValueError, OverflowError) as error:
            raise BadInputError(
                f"the weights file {self._path} does not hold {self.tensor.name}: {error}", "keep both files together"
            ) from error

    def _shaped(self, flat: Array) -> Array:
        if flat.size != math.prod(self.shape):
            raise BadInputError(
                f"the weight {self.tensor.name} has {flat.size} numbers, its shape {list(self.shape)} needs "
                f"{math.prod(self.shape)}",
                "export the file again",
            )
        return flat.reshape(self.shape)


def element_type_name(element_type: int) -> str:
    """Return the name of an ONNX element type: NumPy's, or its number."""
    return element_name(element_type) or f"type {element_type}"


@dataclass(frozen=True)
class Distance:
    """How far two tensors of the same shape are from each other.

    Attributes:
        equal: the same to the bit, both zeros being one.
        difference, old, new: Euclidean norms of new - old, of old and of new.
        max_abs: largest difference of an element; NaN and infinities count as infinite unless they are the same.
        product: inner product of old and new.
    """

    equal: bool
    difference: float
    old: float
    new: float
    max_abs: float
    product: float

    @property
    def relative(self) -> float:
        """|new - old| / |old|."""
        if self.difference == 0:
            return 0.0
        return self.difference / self.old if self.old else math.inf


def distance(old: Weight, new: Weight, scale: float = 1.0) -> Distance:
    """Measure new - scale·old over two tensors of the same shape."""
    equal, largest = True, 0.0
    squares = np.zeros(4)
    for before, after in zip(old.pieces(), new.pieces(), strict=True):
        a, b = _wide(before), _wide(after)
        with np.errstate(invalid="ignore", over="ignore"):
            gap = b - scale * a
            sums = np.array([gap @ gap, a @ a, b @ b, a @ b])
            if not np.isfinite(sums).all():
                same = (scale * a == b) | (np.isnan(a) & np.isnan(b))
                gap = np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))
                sums[0] = gap @ gap
        squares += sums
        largest = max(largest, float(np.abs(gap).max(initial=0.0)))
        # Not from the gap, in which large integers lose their last digits.
        equal = equal and bool(np.array_equal(before, after) or (np.isnan(a).any() and not gap.any()))
    difference, norm, other = (math.sqrt(value) if value >= 0 else math.nan for value in squares[:3])
    return Distance(equal, difference, norm, other, largest, float(squares[3]))


def equal_arrays(old: Array, new: Array) -> bool:
    """Whether two arrays of the same shape, which may be views of memory maps, are equal; compared in pieces."""
    if old.ndim == 0 or old.size <= _PIECE:
        return bool(np.array_equal(old, new))
    rows = max(1, _PIECE // max(1, old.size // old.shape[0]))
    return all(
        np.array_equal(old[start : start + rows], new[start : start + rows]) for start in range(0, len(old), rows)
    )


def slice_digests(array: Array, axis: int) -> list[bytes]:
    """Return a digest of every slice along an axis; every number is read once, in the order of the file."""
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(array.shape[axis])]
    _digest(array, axis, hashes)
    return [item.digest() for item in hashes]


def _digest(array: Array, axis: int, hashes: list[Any]) -> None:
    if axis == 0:
        for item, part in zip(hashes, array, strict=True):
            for piece in _pieces_of(part):
                item.update(piece.tobytes())
    elif array.size <= _PIECE:
        for item, part in zip(hashes, np.moveaxis(np.ascontiguousarray(array), axis, 0), strict=True):
            item.update(part.tobytes())
    else:
        rows = _PIECE * len(array) // array.size
        for start in range(0, len(array), max(1, rows)):
            if rows:
                _digest(array[start : start + rows], axis, hashes)
            else:
                _digest(array[start], axis - 1, hashes)


def _pieces_of(array: Array) -> Iterator[Array]:
    if array.ndim == 0 or array.size <= _PIECE:
        yield array
        return
    for part in array:
        yield from _pieces_of(part)


def _wide(array: Array) -> NDArray[np.float64]:
    return array.astype(np.float64)
