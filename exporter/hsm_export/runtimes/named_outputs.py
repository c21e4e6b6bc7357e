"""A runtime's results by name: sequences become numbered arrays, which can be compared one by one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np


def named_outputs(names: Sequence[str], values: Sequence[Any]) -> OrderedDict[str, Any]:
    """Return the values of a graph's outputs by name.

    A sequence `s` becomes its number of elements, `s.length` (int64), and arrays `s[0]`, `s[1]`, …
    """
    found: OrderedDict[str, Any] = OrderedDict()
    for name, value in zip(names, values, strict=True):
        if isinstance(value, list):
            found[f"{name}.length"] = np.array(len(value), np.int64)
            found.update({f"{name}[{index}]": item for index, item in enumerate(value)})
        else:
            found[name] = value
    return found
