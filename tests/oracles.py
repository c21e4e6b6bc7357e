"""The float64 definition of every operator, by the name of its PyTorch function: what each family's `oracle.py` holds.

They take the arguments of the PyTorch function as float64 and int64 arrays; outputs beyond `lengths` are NaN.
"""

from __future__ import annotations

from hsm_operators import OPERATORS
from hsm_operators.registry import part_of

_FOUND = {
    operator.torch_name: getattr(part_of(operator, "oracle"), operator.torch_name) for operator in OPERATORS.values()
}
__all__ = list(_FOUND)
globals().update(_FOUND)
