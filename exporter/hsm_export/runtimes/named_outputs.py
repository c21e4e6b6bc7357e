"""A runtime's results by name: sequences and maps become arrays, which can be compared one by one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


def named_outputs(names: Sequence[str], values: Sequence[Any]) -> OrderedDict[str, Any]:
    """Return the values of a graph's outputs by name.

    A sequence `s` becomes its number of elements, `s.length` (int64), and its elements `s[0]`, `s[1]`, …; a map `m` the
    arrays `m.keys` and `m.values`. An optional `o` is what it holds, or `o.none` where it holds nothing.
    """
    found = zip(names, values, strict=True)
    return OrderedDict(item for name, value in found for item in _arrays(name, value))


def _arrays(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        yield f"{name}.length", np.array(len(value), np.int64)
        for index, element in enumerate(value):
            yield from _arrays(f"{name}[{index}]", element)
    elif isinstance(value, Mapping):
        yield f"{name}.keys", np.array(list(value))
        yield f"{name}.values", np.array(list(value.values()))
    elif value is None:
        yield f"{name}.none", np.array(True)
    else:
        yield name, value
