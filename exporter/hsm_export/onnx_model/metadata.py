"""What the exporter recorded in a file: keys `hsm_export.…`, each value checked once, here."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsm_operators.expression import ExpressionError, parse

from ..dtypes import BY_PRECISION
from ..errors import BadInputError
from ..formats.document import parsed
from ..formats.state_spec import StateSpec
from .file_operators import KEY as OPERATORS
from .file_operators import described

if TYPE_CHECKING:
    import onnx

PREFIX = "hsm_export."
_AGAIN = "export the file again"


def recorded(model: onnx.ModelProto) -> dict[str, str]:
    """Return what the exporter recorded, without the prefix; empty for files of other tools."""
    return {
        entry.key.removeprefix(PREFIX): entry.value for entry in model.metadata_props if entry.key.startswith(PREFIX)
    }


def check(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Check the values of a file's metadata and return those that are JSON, by key.

    Args:
        path: the file, for errors.
        metadata: what `recorded` returns.

    Raises:
        BadInputError: a value is not what its key says, or a state is of a newer version.
    """
    if metadata.get("precision", "fp32") not in BY_PRECISION:
        raise _bad(path, "precision", f"{metadata['precision'][:40]!r}, not one of {', '.join(BY_PRECISION)}")
    if metadata.get("decode", "") not in ("", "1"):
        raise _bad(path, "decode", f"{metadata['decode'][:40]!r}, not 1")
    found = {
        key: parsed(metadata[key], f"{path}: the metadata {PREFIX}{key}", _AGAIN)
        for key in _SHAPES
        if metadata.get(key)
    }
    for key, value in found.items():
        wanted, fits = _SHAPES[key]
        if not fits(value):
            raise _bad(path, key, f"not {wanted}")
    try:
        described(metadata.get(OPERATORS) or "[]")
        if metadata.get("state"):
            StateSpec.from_json(metadata["state"])
    except BadInputError as error:
        raise BadInputError(f"{path}: {error.message}", error.hint) from error
    return found


def _bad(path: Path, key: str, why: str) -> BadInputError:
    return BadInputError(f"{path}: the metadata {PREFIX}{key} is {why}", _AGAIN)


def _is_config(value: Any) -> bool:
    longest = value.get("max_length") if isinstance(value, dict) else -1
    return longest is None or (isinstance(longest, int) and not isinstance(longest, bool) and longest >= 0)


def _are_inputs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and isinstance(item.get("shape", []), list)
        and all(item.get(key) is None or type(item[key]) is int for key in ("low", "high", "usual"))
        and type(item.get("counts")) in (int, str, type(None))
        and _is_range(item.get("seen"))
        for item in value
    )


def _is_range(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and [type(item) for item in value] == [int, int] and value[0] <= value[1]


def _are_parts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, dict) for part in value.values())


def _are_relations(value: Any) -> bool:
    try:
        return isinstance(value, list) and all(isinstance(parse(text), ast.Compare) for text in value)
    except (ExpressionError, TypeError, ValueError, RecursionError, MemoryError):
        return False


_SHAPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "config": ("an object whose max_length is a number of tokens", _is_config),
    "inputs": ("a list of named inputs with integer bounds", _are_inputs),
    "parts": ("an object of objects", _are_parts),
    "relations": ("a list of comparisons of dimensions", _are_relations),
}
