"""Protocol-buffer text, as Triton's `config.pbtxt` has it, from Python values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Enum(str):
    """A name of an enumeration, which stands without quotes."""


def protobuf_text(message: Mapping[str, Any]) -> str:
    """Return a message as text.

    Args:
        message: fields by name: strings, `Enum`, numbers, bools, mappings for messages, and sequences for repeated
            fields. None leaves a field out.
    """
    return "".join(f"{line}\n" for line in _lines(message, ""))


def _lines(message: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, Mapping):
            yield from _message(name, value, indent)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from _repeated(name, value, indent)
        elif value is not None:
            yield f"{indent}{name}: {_scalar(value)}"


def _repeated(name: str, values: Sequence[Any], indent: str) -> Iterator[str]:
    if any(isinstance(value, Mapping) for value in values):
        for value in values:
            yield from _message(name, value, indent)
    elif values:
        yield f"{indent}{name}: [{', '.join(map(_scalar, values))}]"


def _message(name: str, value: Mapping[str, Any], indent: str) -> Iterator[str]:
    inner = list(_lines(value, indent + "  "))
    if not inner:
        yield f"{indent}{name} {{}}"
        return
    yield f"{indent}{name} {{"
    yield from inner
    yield f"{indent}}}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value)
    return str(value)
