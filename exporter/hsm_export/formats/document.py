"""Documents: JSON whose fields and types one struct says, read with a check of everything and by one function.

A document that anybody may have written is refused with one sentence: which document, which field, what it should be.
The JSON Schema of a document is generated from its struct, by `tools/write_schemas.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..errors import BadInputError
from ..files import atomic_path, require_file

_MAX_DEPTH = 64
_MOST_SHOWN = 300
_NOT_FINITE = ("nan", "inf", "-inf")
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_EXPECTED = re.compile(r"Expected `(?P<kinds>[^`]*)`(?P<limit>.*?)(?:, got .*)?", re.DOTALL)

_T = TypeVar("_T")


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON document, or a part of one. Subclasses are frozen and refuse unknown fields too."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data (paths as strings, NaN and infinities as strings)."""
        data = plain(self)
        assert isinstance(data, dict)
        return data

    def write(self, path: str | Path, *, indent: int | None = 2) -> None:
        """Write the document to a file, whole or not at all.

        Raises:
            BadInputError: the file cannot be written.
        """
        separators = (",", ":") if indent is None else None
        text = json.dumps(self.to_dict(), indent=indent, separators=separators, allow_nan=False)
        with atomic_path(path) as scratch:
            scratch.write_text(text + "\n", encoding="utf-8")


def read_file(
    path: str | Path, kind: type[_T], what: str, remedy: str, *, most_bytes: int = 1 << 26, whole: bool = False
) -> _T:
    """Read a document from a file that anybody may have written.

    Args:
        path: the file.
        kind: the document's struct.
        what: names such a document in errors ("a precision plan").
        remedy: how to get a good one.
        most_bytes: a larger file is refused unread.
        whole: only programs write it: fields that have a default must be there too, and numbers that are not finite
            are the words "nan", "inf" and "-inf".

    Raises:
        BadInputError: it is missing, too large, no JSON, of another schema, or a field is missing, unknown or of the
            wrong type.
    """
    path = require_file(path, what)
    if path.stat().st_size > most_bytes:
        raise BadInputError(f"{path} is too large for {what}", remedy)
    return read(path.read_bytes(), kind, str(path), what, remedy, whole=whole)


def read(text: bytes | str, kind: type[_T], where: str, what: str, remedy: str, *, whole: bool = False) -> _T:
    """Read a document; `where` names it in errors, the other arguments are those of `read_file`."""
    data = parsed(text, where, remedy)
    _require_schema(data, kind, where, what, remedy)
    return converted(data, kind, where, what, remedy, whole=whole)


def _require_schema(data: Any, kind: Any, where: str, what: str, remedy: str) -> None:
    """Refuse documents of another schema, or of another version of it, before their fields are looked at.

    A document says both in `schema` and `schema_version`, or has only a number in `schema`.
    """
    described = msgspec.inspect.type_info(kind)
    assert isinstance(described, (msgspec.inspect.StructType, msgspec.inspect.DataclassType))
    own = {field.name: field.default for field in described.fields if field.name.startswith("schema")}
    number = "schema_version" if "schema_version" in own else "schema"
    if not isinstance(data, dict) or (number != "schema" and data.get("schema") != own["schema"]):
        raise BadInputError(f"{where} is not {what}", remedy)
    if number in own and (type(data.get(number)) is not int or data[number] != own[number]):
        raise BadInputError(
            f"{where} has {number.replace('_', ' ')} {one_line(repr(data.get(number)))}; this version reads "
            f"{own[number]}",
            "use the version of hsm-export that wrote it, or make it again",
        )


def parsed(text: bytes | str, where: str, remedy: str, *, levels: int = _MAX_DEPTH) -> Any:
    """Return the data of JSON text in which no name comes twice, every number is finite and nothing is nested deeply.

    Raises:
        BadInputError: it is something else.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{where} is not valid JSON: {one_line(str(error))}", remedy) from error
    if _deeper(data, levels):
        raise BadInputError(f"{where} is nested deeper than {levels} levels", remedy)
    return data


def converted(data: Any, kind: type[_T], where: str, what: str, remedy: str, *, whole: bool = False) -> _T:
    """Return JSON data as a document; the arguments are those of `read`.

    Raises:
        BadInputError: a field is missing, unknown or of the wrong type.
    """
    if whole:
        data = _with_floats(data, msgspec.inspect.type_info(kind))
    try:
        found = msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise BadInputError(one_line(f"{where} is not {what}: {_sentence(data, kind)}"), remedy) from error
    odd = next(_other_fields(data, found, ""), None) if whole else None
    if odd:
        raise BadInputError(one_line(f"{where} is not {what}: {odd}"), remedy)
    return found


def _other_fields(data: Any, found: Any, where: str) -> Iterator[str]:
    """Yield in which fields data differs from what was made of it: those left to defaults, and those ignored."""
    if isinstance(found, msgspec.Struct) or dataclasses.is_dataclass(found):
        names = _field_names(found)
        yield from (f"{where.removeprefix('.') or 'it'} lacks {name!r}" for name in names if name not in data)
        unknown = data.keys() - set(names)
        yield from (f"{where.removeprefix('.') or 'it'} has an unknown field {name!r}" for name in sorted(unknown))
        for name in names:
            yield from _other_fields(data[name], getattr(found, name), f"{where}.{name}")
    elif isinstance(found, dict):
        for name, item in found.items():
            yield from _other_fields(data[name], item, f"{where}[{name!r}]")
    elif isinstance(found, tuple):
        for index, item in enumerate(found):
            yield from _other_fields(data[index], item, f"{where}[{index}]")


def one_line(text: str) -> str:
    """Return text of a document as part of a message: what does not print is escaped, and its end is left out."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:_MOST_SHOWN])
    return shown if len(text) <= _MOST_SHOWN else f"{shown} ..."


def plain(value: Any) -> Any:
    """Reduce a value to what `json.dumps(..., allow_nan=False)` takes: non-finite floats become strings."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        tag = {} if config.tag is None else {config.tag_field: config.tag}
        return {**tag, **{name: plain(getattr(value, name)) for name in value.__struct_fields__}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def schema_of(kind: type[Document], title: str, description: str, *, whole: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of a document; `whole` as in `read_file`."""
    own, parts = msgspec.json.schema_components((kind,), ref_template="#/$defs/{name}")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, "description": description}
    return {**head, **own[0], "$defs": _tidied(parts, whole, {})}


def inlined_schema(kind: type[msgspec.Struct], optional: Collection[str] = ()) -> dict[str, Any]:
    """Return the JSON Schema of a part of a document that refers to no other part; `optional` fields may be missing."""
    own, parts = msgspec.json.schema_components((kind,))
    schema: dict[str, Any] = _tidied(own[0], True, parts)
    return {**schema, "required": [name for name in schema["required"] if name not in optional]}


def _tidied(schema: Any, whole: bool, parts: Mapping[str, Any]) -> Any:
    """Return a schema with short descriptions, without defaults where all fields are required, and with `parts` put in.

    The defaults of structs are for programs; what a program writes has every field.
    """
    if isinstance(schema, list):
        return [_tidied(item, whole, parts) for item in schema]
    if not isinstance(schema, dict):
        return schema
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name in parts:
        return _tidied(parts[name], whole, parts)
    if whole and schema.get("type") == "number":
        return {"anyOf": [{"type": "number"}, {"enum": list(_NOT_FINITE)}]}
    found = {key: _tidied(item, whole, parts) for key, item in schema.items() if not (whole and key == "default")}
    if isinstance(found.get("description"), str):
        found["description"] = found["description"].partition("\n")[0]
    if whole and isinstance(found.get("properties"), dict):
        found["required"] = list(found["properties"])
        if not parts:
            found["additionalProperties"] = False
    return found


def _with_floats(data: Any, of: msgspec.inspect.Type) -> Any:
    """Return data with floats in the place of "nan", "inf" and "-inf", where its type wants a float."""
    inspect = msgspec.inspect
    match of:
        case inspect.FloatType() if isinstance(data, str) and data in _NOT_FINITE:
            return float(data)
        case inspect.UnionType():
            for inner in of.types:
                data = _with_floats(data, inner)
        case inspect.StructType() | inspect.DataclassType() if isinstance(data, dict):
            types = {field.encode_name: field.type for field in of.fields}
            return {key: _with_floats(item, types[key]) if key in types else item for key, item in data.items()}
        case inspect.DictType() if isinstance(data, dict):
            return {key: _with_floats(item, of.value_type) for key, item in data.items()}
        case inspect.VarTupleType() if isinstance(data, list):
            return [_with_floats(item, of.item_type) for item in data]
        case inspect.TupleType() if isinstance(data, list) and len(data) == len(of.item_types):
            return [_with_floats(item, inner) for item, inner in zip(data, of.item_types, strict=True)]
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"the name {counts.most_common(1)[0][0]!r} comes twice")
    return found


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


def _deeper(value: Any, levels: int) -> bool:
    """Say whether a value is nested deeper than so many levels."""
    if not isinstance(value, (dict, list)):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in inside)


def _sentence(data: Any, kind: Any) -> str:
    """Say in our words what does not fit: the field, and what it should be."""
    where, problem, hint = _fault(data, kind, "")
    where = where.removeprefix(".") or "it"
    named = problem.rpartition("`")[0].rpartition("`")[2]
    if problem.startswith("Object missing"):
        return f"{where} lacks {named!r}"
    if problem.startswith("Object contains unknown"):
        return f"{where} has an unknown field {named!r}"
    if problem.startswith("Invalid"):
        return f"{where} must be one of {_choices(hint)}, not {problem.partition('value ')[2]}"
    if problem == "Number out of range":
        return f"{where} is too large"
    expected = _EXPECTED.fullmatch(problem)
    if expected is None:
        return f"{where}: {problem}"
    words = (_WORDS.get(part, part) for part in expected["kinds"].split(" | "))
    return f"{where} must be {' or '.join(words)}{expected['limit']}"


def _fault(data: Any, hint: Any, where: str) -> tuple[str, str, Any]:
    """Return the innermost part of data that does not fit its type: its path, msgspec's words on it, and the type."""
    for step, inner, kind in _parts(data, hint):
        try:
            msgspec.convert(inner, kind)
        except msgspec.ValidationError:
            return _fault(inner, kind, where + step)
    try:
        msgspec.convert(data, hint)
    except msgspec.ValidationError as error:
        return where, str(error).partition(" - at ")[0], hint
    raise AssertionError(f"{where} fits")


def _parts(data: Any, hint: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the parts of data with the steps to them and their types."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        yield from _parts(data, arguments[0])
    elif origin in (types.UnionType, typing.Union):
        # At most one member has parts, but for structs that a tag tells apart.
        members = [item for item in arguments if _tag(item) is None or _tag(item) == _given_tag(data, item)]
        yield from (part for item in members for part in _parts(data, item))
    elif isinstance(data, dict) and (dataclasses.is_dataclass(hint) or _is_struct(hint)):
        hints, names = typing.get_type_hints(hint, include_extras=True), _field_names(hint)
        yield from ((f".{name}", item, hints[name]) for name, item in data.items() if name in names)
    elif isinstance(data, dict) and origin is dict:
        yield from ((f": the name {name!r}", name, arguments[0]) for name in data)
        yield from ((f"[{name!r}]", item, arguments[1]) for name, item in data.items())
    elif isinstance(data, list) and origin is tuple:
        kinds = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else arguments
        yield from ((f"[{index}]", item, kind) for index, (item, kind) in enumerate(zip(data, kinds, strict=False)))


def _field_names(of: Any) -> Collection[str]:
    """Return the fields of a struct or dataclass, or of an instance."""
    names: Collection[str] = of.__struct_fields__ if hasattr(of, "__struct_fields__") else of.__dataclass_fields__
    return names


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _tag(hint: Any) -> Any:
    return hint.__struct_config__.tag if _is_struct(hint) else None


def _given_tag(data: Any, hint: Any) -> Any:
    return data.get(hint.__struct_config__.tag_field) if isinstance(data, dict) else None


def _choices(hint: Any) -> str:
    """Return the values that a field may have, or the tags of the structs that it may be."""
    arguments = typing.get_args(hint)
    literal = typing.get_origin(hint) is typing.Literal
    inner = [item for argument in arguments for item in ([argument] if literal else typing.get_args(argument))]
    tags = [_tag(argument) for argument in arguments if _tag(argument) is not None]
    return ", ".join(map(repr, tags or inner))
