"""The JSON form of a diff: what `hsm-export diff --json` prints, and back.

`diff.schema.json`, beside this package, says the same to readers in other languages.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...dtypes import BY_PRECISION
from ...errors import BadInputError
from ...files import atomic_path, require_file
from ..layers.graph import EXACT
from ..results import DiffResult

# 2,000 layers of 6 runtimes take 20 MB.
_MAX_BYTES = 256 * 1024 * 1024
_SCHEMA = 1
_NOT_FINITE = ("nan", "inf", "-inf")
# What the dataclasses call text has a closed list of values here and there.
_WORDS = {
    "precision": tuple(BY_PRECISION),
    "task": ("language_model", "classification", ""),
    "verdict": ("same", "differs", "not judged", "skipped", "failed"),
    "what": ("output", "layer", "metric", "verdict"),
    "dtype": (*(item.name for item in BY_PRECISION.values()), *EXACT),
}
_REMEDY = "name a report that `hsm-export diff` wrote as JSON"


def write_json(result: DiffResult, path: str | Path) -> None:
    """Write a result as JSON; NaN and infinities are the strings "nan", "inf" and "-inf".

    Raises:
        BadInputError: the file cannot be written.
    """
    text = json.dumps(result.to_dict(), separators=(",", ":"), allow_nan=False)
    with atomic_path(path) as scratch:
        scratch.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> DiffResult:
    """Read what `write_json` wrote, as if a stranger had.

    Raises:
        BadInputError: it is missing, too large, no JSON, of another schema, or a field is missing, unknown or of the
            wrong type.
    """
    path = require_file(path, "report")
    if path.stat().st_size > _MAX_BYTES:
        raise BadInputError(f"{path} is too large for a report", _REMEDY)
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not valid JSON: {error}", _REMEDY) from error
    if not isinstance(data, dict) or "runtimes" not in data:
        raise BadInputError(f"{path} is not a report of a diff", _REMEDY)
    if type(data.get("schema")) is not int or data["schema"] != _SCHEMA:
        raise BadInputError(
            f"{path} has schema {data.get('schema')!r}; this version reads {_SCHEMA}",
            "use the version of hsm-export that wrote it, or make the report again",
        )
    try:
        result = _decoder(DiffResult)(data)
    except _UnfitError as error:
        raise BadInputError(f"{path} is not a report of a diff: {error}", _REMEDY) from error
    assert isinstance(result, DiffResult)
    return result


class _UnfitError(Exception):
    """A field that is not what its dataclass says: its path from here, and what is wrong with it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path.removeprefix('.') or 'it'} {problem}")
        self._path = path
        self._problem = problem

    def inside(self, place: str) -> _UnfitError:
        """Return the error as seen from outside of `place`."""
        return _UnfitError(place + self._path, self._problem)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_Decoder = Callable[[Any], Any]


@functools.cache
def _decoder(hint: Any) -> _Decoder:
    """Return the function that turns JSON data into what a type hint says."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (_decoder(item) for item in arguments if item is not type(None))
        return lambda data: None if data is None else inner(data)
    if origin is tuple:
        return functools.partial(_tuple, arguments)
    if origin is dict:
        return functools.partial(_dict, _decoder(arguments[1]))
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        fields = {name: _decoder(item) for name, item in typing.get_type_hints(hint).items()}
        return functools.partial(_dataclass, hint, fields)
    return _float if hint is float else functools.partial(_scalar, hint)


def _dataclass(kind: type, fields: dict[str, _Decoder], data: Any) -> Any:
    if not isinstance(data, dict):
        raise _UnfitError("", "must be an object")
    for name in fields.keys() - data.keys():
        raise _UnfitError("", f"lacks {name!r}")
    for name in data.keys() - fields.keys():
        raise _UnfitError("", f"has an unknown field {name!r}")
    for name in fields.keys() & _WORDS.keys():
        if data[name] not in _WORDS[name]:
            raise _UnfitError(f".{name}", f"must be one of {', '.join(map(repr, _WORDS[name]))}")
    found = {}
    for name, decode in fields.items():
        try:
            found[name] = decode(data[name])
        except _UnfitError as error:
            raise error.inside(f".{name}") from None
    return kind(**found)


def _tuple(arguments: tuple[Any, ...], data: Any) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _UnfitError("", "must be a list")
    if arguments[-1] is Ellipsis:
        decoders = [_decoder(arguments[0])] * len(data)
    else:
        decoders = [_decoder(item) for item in arguments]
    if len(data) != len(decoders):
        raise _UnfitError("", f"must have {len(decoders)} items")
    return tuple(_item(place, decode, item) for place, (decode, item) in enumerate(zip(decoders, data, strict=True)))


def _dict(decode: _Decoder, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise _UnfitError("", "must be an object")
    return {name: _item(repr(name), decode, item) for name, item in data.items()}


def _item(place: int | str, decode: _Decoder, data: Any) -> Any:
    try:
        return decode(data)
    except _UnfitError as error:
        raise error.inside(f"[{place}]") from None


def _scalar(kind: type, data: Any) -> Any:
    # `type`, because True is an int too.
    if type(data) is not kind:
        names = {str: "text", bool: "true or false", int: "a whole number"}
        raise _UnfitError("", f"must be {names[kind]}")
    return data


def _float(data: Any) -> float:
    if type(data) not in (float, int) and data not in _NOT_FINITE:
        raise _UnfitError("", "must be a number")
    try:
        return float(data)
    except OverflowError as error:
        raise _UnfitError("", "is too large") from error
