"""Dataclasses to JSON data and back: every name and type is checked before anything is built."""

from __future__ import annotations

import collections.abc
import dataclasses
import reprlib
import types
import typing
from typing import Any, Literal, TypeVar, Union

from .errors import ConfigError

LIMIT = 2**31  # sizes and shifts beyond it have no meaning in any runtime

_T = TypeVar("_T")


def added(default: _T) -> _T:
    """Return a dataclass's field that earlier versions did not know.

    At its default it is left out of JSON, so that the text of everything made before, and with it every fingerprint,
    stays as it was.
    """
    return dataclasses.field(default=default, metadata={"added": True})


def data_of(value: Any) -> Any:
    """Return a dataclass, and what it holds, as JSON data: `build_dataclass` makes an equal one of it."""
    if hasattr(value, "to_data"):
        return value.to_data()
    if dataclasses.is_dataclass(value):
        return fields_of(value)
    if isinstance(value, (list, tuple)):
        return [data_of(item) for item in value]
    if isinstance(value, collections.abc.Mapping):
        return {name: data_of(item) for name, item in value.items()}
    return value


def fields_of(instance: Any) -> dict[str, Any]:
    """Return a dataclass's fields as JSON data, by name, without those that `added` leaves out."""
    values = {field: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    return {
        field.name: data_of(value)
        for field, value in values.items()
        if not (field.metadata.get("added") and value == field.default)
    }


def check_fields(instance: Any, where: str) -> None:
    """Check the types of a dataclass's fields as if they came from JSON.

    Raises:
        ConfigError: a value of the wrong type.
    """
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        _value(hints[field.name], getattr(instance, field.name), f"{where}.{field.name}", _limit(field))


def build_dataclass(cls: type[_T], data: Any, where: str) -> _T:
    """Make a dataclass from JSON data, checking names and types field by field.

    Args:
        cls: the dataclass; its fields are ints, floats, strings, Literals, tuples, mappings from strings, dataclasses,
            None, Any for what is checked elsewhere, or unions of them. Dataclasses in a union are told apart by their
            Literal field `kind`; one with a class method `from_data` reads itself. Numbers are below 2**31, or the
            field's metadata "limit".
        data: what `json.loads` gave.
        where: name of the data in error messages.

    Raises:
        ConfigError: unknown or missing fields, or values of the wrong type.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must be an object with fields, got {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ConfigError(f"{where} has unknown fields {', '.join(unknown)}; known are {', '.join(known)}")
    values = {name: _value(hints[name], item, f"{where}.{name}", _limit(known[name])) for name, item in data.items()}
    missing = [
        name
        for name, f in known.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks the fields {', '.join(missing)}")
    return cls(**values)


def _limit(field: dataclasses.Field[Any]) -> int:
    limit: int = field.metadata.get("limit", LIMIT)
    return limit


def _value(hint: Any, item: Any, where: str, limit: int = LIMIT) -> Any:
    """Check one JSON value against a type hint and convert lists to tuples and objects to dataclasses."""
    if hint is Any:
        return item
    origin = typing.get_origin(hint)
    if origin is Literal:
        if item not in typing.get_args(hint) or isinstance(item, bool):
            raise ConfigError(
                f"{where} must be one of {', '.join(map(str, typing.get_args(hint)))}, got {reprlib.repr(item)}"
            )
        return item
    if origin in (Union, types.UnionType):
        return _union_value(typing.get_args(hint), item, where)
    if origin is tuple:
        if not isinstance(item, (list, tuple)):
            raise ConfigError(f"{where} must be a list, got {reprlib.repr(item)}")
        return tuple(_value(typing.get_args(hint)[0], x, f"{where}[{i}]") for i, x in enumerate(item))
    if origin is collections.abc.Mapping:
        if not isinstance(item, dict):
            raise ConfigError(f"{where} must be an object, got {reprlib.repr(item)}")
        return {name: _value(typing.get_args(hint)[1], x, f"{where}[{name!r}]") for name, x in item.items()}
    if dataclasses.is_dataclass(hint) and isinstance(item, hint):  # type: ignore[arg-type]
        check_fields(item, where)
        return item
    if hasattr(hint, "from_data"):
        return hint.from_data(item, where)
    if dataclasses.is_dataclass(hint):
        return build_dataclass(hint, item, where)  # type: ignore[arg-type]
    if hint in (int, float) and isinstance(item, (int, float)) and not isinstance(item, bool):
        return _number(hint, item, where, limit)
    if not isinstance(item, hint) or (hint is int and isinstance(item, bool)):
        raise ConfigError(f"{where} must be of type {hint.__name__}, got {reprlib.repr(item)}")
    return item


def _number(hint: type[int] | type[float], item: int | float, where: str, limit: int) -> int | float:
    """Check a JSON number: finite, below the limit, and no fraction where an integer is wanted."""
    if not -limit < item < limit:
        raise ConfigError(f"{where} must be finite and below 2**{limit.bit_length() - 1}")
    if hint is int and not isinstance(item, int):
        raise ConfigError(f"{where} must be of type int, got {reprlib.repr(item)}")
    return hint(item)


def _union_value(options: tuple[Any, ...], item: Any, where: str) -> Any:
    """Check a value against `X | None`, `int | str`, or dataclasses told apart by their field `kind`."""
    if item is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return _value(options[0], item, where)
    if not any(dataclasses.is_dataclass(option) for option in options):
        fitting = next((option for option in options if type(item) is option), None)
        if fitting is None:
            names = " or ".join(option.__name__ for option in options)
            raise ConfigError(f"{where} must be of type {names}, got {reprlib.repr(item)}")
        return _value(fitting, item, where)
    kinds = {typing.get_args(typing.get_type_hints(option)["kind"])[0]: option for option in options}
    kind = item.get("kind") if isinstance(item, dict) else None
    if kind not in kinds:
        raise ConfigError(f"{where}.kind must be one of {', '.join(kinds)}, got {reprlib.repr(kind)}")
    return build_dataclass(kinds[kind], item, where)
