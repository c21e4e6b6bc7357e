"""The forms that a weight may have: how many bits, in which blocks, and what they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.quantisation_plan import Activations, Dialect, Form, Objective
from .weights import Weight

Array = NDArray[Any]

# Of 8 bits in ONNX Runtime's blockwise operators, whose blocks are powers of two.
_BLOCKS8 = (128, 64, 32, 16)
_LEAST_BLOCK = 16
_BITS: dict[Form, int] = {"int8": 8, "dynamic8": 8, "int4x128": 4, "int4x64": 4, "int4x32": 4}
_BLOCKS: dict[Form, int] = {"int4x128": 128, "int4x64": 64, "int4x32": 32}

# How long a prompt takes in a form, against float32: measured (docs/quantising.md). Blocks of few bits are widened
# before each product of a prompt, unless it is one of whole numbers, which takes longer where a row is short.
_PROMPT: dict[Form, float] = {"dynamic8": 0.62, "int8": 0.65, "int4x128": 0.65, "int4x64": 0.75, "int4x32": 0.9}
_LEAST_DEPTH, _SHORT_ROW = 512, 1.4
_TIE = 1e-6


@dataclass(frozen=True)
class Codes:
    """A weight (N,K) in whole numbers.

    Attributes:
        form: the weight's form.
        integers: (N,K) int8; the numbers are integers * scale.
        scales: (N, ⌈K/block⌉) float32, above 0.
        block: numbers of a row that share a scale.
        rounding: "nearest" or "gptq".
    """

    form: Form
    integers: Array
    scales: Array
    block: int
    rounding: str = "nearest"

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return bits_of(self.form)

    def matrix(self) -> Array:
        """Return the numbers (N,K) in float32 that a runtime computes with."""
        spread = np.repeat(self.scales, self.block, axis=1)[:, : self.integers.shape[1]]
        return np.asarray(self.integers.astype(np.float32) * spread)


def bits_of(form: Form) -> int:
    """Return the bits of a whole number in a form; 16 and 32 for floats."""
    return {"fp32": 32, "fp16": 16}.get(form) or _BITS[form]


def is_whole(form: Form) -> bool:
    """Say whether a form holds whole numbers and scales."""
    return form in _BITS


def block_of(form: Form, weight: Weight, dialect: Dialect) -> int:
    """Return how many numbers of a row share a scale: all, or a power of two."""
    if form in _BLOCKS:
        return _BLOCKS[form]
    if form == "int8" and dialect == "ort" and weight.kinds == {"experts"} and weight.has_packed_operators:
        return next((size for size in _BLOCKS8 if weight.depth % size == 0), weight.depth)
    if form == "dynamic8" or dialect == "qdq" or "experts" in weight.kinds:
        return weight.depth
    blocks = [size for size in _BLOCKS8 if size < 2 * weight.depth]
    whole = [size for size in blocks if weight.depth % size == 0]
    # What is left of the last block is stored too.
    return min(whole if "table" in weight.kinds else blocks or _BLOCKS8[-1:], key=lambda size: _row_bytes(weight, size))


def _row_bytes(weight: Weight, block: int) -> int:
    """Return what a row takes in 8 bits and blocks."""
    blocks = -(-weight.depth // block)
    return blocks * (block + 4)


def possible(weight: Weight, dialect: Dialect, objective: Objective) -> tuple[Form, ...]:
    """Return the forms that a weight may have, float32 first."""
    found: list[Form] = ["fp32", "fp16"]
    table = "table" in weight.kinds
    if not (table and dialect == "ort" and weight.depth % _LEAST_BLOCK):
        found.append("int8")
    if objective == "prefill" and dialect == "ort" and weight.kinds == {"product"} and weight.swapped:
        found.append("dynamic8")
    packed = weight.kinds == {"experts"} and dialect == "ort" and weight.has_packed_operators
    if packed or "experts" not in weight.kinds:
        for form, block in _BLOCKS.items():
            fits = weight.depth % block == 0 if table or packed else weight.depth >= block
            # QDQ: every block but the last is whole, and each has a number.
            found += [form] if fits else []
    return tuple(found)


def stored_bytes(form: Form, weight: Weight, dialect: Dialect) -> int:
    """Return what a weight takes in a file, scales and padding included."""
    if not is_whole(form):
        return weight.elements * bits_of(form) // 8
    block = block_of(form, weight, dialect)
    blocks = -(-weight.depth // block)
    padded = blocks * block if dialect == "ort" and weight.kinds <= {"product", "table"} else weight.depth
    if form == "dynamic8":
        padded = weight.depth
    return weight.outputs * (padded * bits_of(form) // 8 + 4 * blocks)


def is_widened(form: Form, weight: Weight, dialect: Dialect, activations: Activations) -> bool:
    """Say whether a weight is stored in fewer bits and widened to float32 when the file is loaded.

    So are experts of operators without packed forms, and blocks of 8 bits for products with float32: ONNX Runtime has
    no kernel for those, and widens the whole weight in every call.
    """
    if form == "fp16":
        return True
    if is_whole(form) and "experts" in weight.kinds:
        return dialect != "ort" or not weight.has_packed_operators
    return form == "int8" and dialect == "ort" and activations == "float32" and "product" in weight.kinds


def cost_of(form: Form, weight: Weight, dialect: Dialect, objective: Objective, activations: Activations) -> float:
    """Return what a form costs, in what the objective makes small: bytes, or products of a token."""
    size = float(stored_bytes(form, weight, dialect))
    if objective == "size":
        return size
    widened = is_widened(form, weight, dialect, activations)
    if objective == "prefill":
        work = weight.elements if weight.kinds & {"product", "experts"} else 0
        return work * (1.0 if widened else _prompt(form, weight, activations)) + _TIE * size
    # Of a table a token reads one row; what is widened when the file is loaded is read as float32.
    read = 0.0 if weight.kinds == {"table"} else float(4 * weight.elements) if widened else size
    return read + _TIE * size


def _prompt(form: Form, weight: Weight, activations: Activations) -> float:
    """Return how long a prompt takes with a weight that is not widened, against float32."""
    if form == "dynamic8":
        return _PROMPT[form]
    if not is_whole(form) or activations == "float32":
        return 1.0
    return _PROMPT[form] if min(weight.depth, weight.outputs) >= _LEAST_DEPTH else _SHORT_ROW
