"""Random arguments for each operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tests.operators.inputs import SMALL, attributes_of, row_range, sizes_of
from torch import Tensor

from hsm_operators import OPERATORS, expression
from hsm_operators.precision import accumulator
from hsm_operators.testing import Subject
from tests import oracles

Array = npt.NDArray[Any]

NAMES = tuple(oracles.__all__)
OPERATOR_OF = {operator.torch_name: operator for operator in OPERATORS.values()}


def arguments(
    name: str,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    length: int = 6,
    width: int = 0,
) -> dict[str, Any]:
    """Return arguments by name: a third of the small case's sizes, rows of unequal length, and a state with a past.

    `width` is that of models and heads, where it is given.
    """
    operator = OPERATOR_OF[name]
    attributes = attributes_of(operator.name)
    thirds = {dimension: -(-size // 3) for dimension, size in SMALL[operator.name].sizes.items()}
    if width:
        ruled = {name for rule in operator.rules for name in expression.names(rule.condition)}
        thirds |= {name: width for name, size in operator.sizes.items() if "width" in size.words and name not in ruled}
    sizes = sizes_of(operator.name, {**thirds, "B": batch, "T": length}, attributes)
    spans = {port.name: row_range(port, sizes, attributes) for port in operator.inputs if port.rows}
    rows = {key: [most - row % (most - least + 1) for row in range(batch)] for key, (least, most) in spans.items()}
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    kinds = {"T": dtype, "tensor(float)": accumulator(dtype)}
    kinds |= {"tensor(int64)": torch.int64, "tensor(uint8)": torch.uint8}
    arrays = Subject.own(operator.name).drawn(sizes, attributes, rows, rng)
    flags = {attribute.name for attribute in operator.attributes if attribute.is_flag}
    return {port.name: torch.from_numpy(arrays[port.name]).to(kinds[port.type]) for port in operator.inputs} | {
        key: bool(value) if key in flags else value for key, value in attributes.items()
    }


def as_arrays(found: dict[str, Any]) -> dict[str, Any]:
    """Return the same arguments for an oracle."""
    return {key: _array(value) if isinstance(value, Tensor) else value for key, value in found.items()}


def _array(value: Tensor) -> Array:
    return np.asarray((value.double() if value.is_floating_point() else value).detach())


def as_tuple(result: Any) -> tuple[Any, ...]:
    """Return one or several results as a tuple."""
    return result if isinstance(result, tuple) else (result,)


def overloaded(name: str, found: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """Return the torch.library operator and its positional arguments."""
    form = ("auto",) if name in ("taylor_shift", "taylor_shift_masked") else ()
    return getattr(torch.ops.hsm, name).default, (*found.values(), *form)
