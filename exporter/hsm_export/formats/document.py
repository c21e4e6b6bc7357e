"""Documents: JSON whose fields and types one struct says, read with a check of everything and by one function.

A document that anybody may have written is refused with one sentence: which document, which field, what it should be.
The JSON Schema of a document is generated from its struct, by `tools/write_schemas.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..errors import BadInputError
from ..files import atomic_path, require_file

_MAX_DEPTH = 64
_MOST_SHOWN = 300
# Entries of an object that are looked through for the one that does not fit.
_MOST_TRIED = 2000
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
_MESSAGE = re.compile(r"(?P<problem>.*?)(?: - at (?P<name>`key` in )?`(?P<at>[^`]*)`)?", re.DOTALL)
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
        raise BadInputError(one_line(f"{where} is not {what}: {_sentence(error, data, kind)}"), remedy) from error
    odd = next(_other_fields(data, found, ""), None) if whole else None
    if odd:
        raise BadInputError(one_line(f"{where} is not {what}: {odd}"), remedy)
    return found


def _other_fields(data: Any, found: Any, where: str) -> Iterator[str]:
    """Yield in which fields data differs from what was made of it: those left to defaults, and those ignored."""
    if isinstance(found, msgspec.Struct) or dataclasses.is_dataclass(found):
        names = found.__struct_fields__ if isinstance(found, msgspec.Struct) else found.__dataclass_fields__
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


def inlined_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON Schema of a part of a document that refers to no other part; all its fields are required."""
    own, parts = msgspec.json.schema_components((kind,))
    schema: dict[str, Any] = _tidied(own[0], True, parts)
    return schema


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


def _sentence(error: msgspec.ValidationError, data: Any, kind: Any) -> str:
    """Say in our words what msgspec found: the field, and what it should be."""
    match = _MESSAGE.fullmatch(str(error))
    assert match is not None
    problem, of_a_name = match["problem"], match["name"] is not None
    keys = _keys(match["at"] or "", of_a_name, str(error), data, kind)
    where = "".join(map(_step, keys)).removeprefix(".") or "it"
    if of_a_name:
        where = f"the name {keys[-1].name!r} in {''.join(map(_step, keys[:-1])).removeprefix('.')}"
    named = problem.rpartition("`")[0].rpartition("`")[2]
    if problem.startswith("Object missing"):
        return f"{where} lacks {named!r}"
    if problem.startswith("Object contains unknown"):
        return f"{where} has an unknown field {named!r}"
    if problem.startswith("Invalid"):
        return (
            f"{where} must be one of {', '.join(map(repr, _choices(kind, keys)))}, not {problem.partition('value ')[2]}"
        )
    if problem == "Number out of range":
        return f"{where} is too large"
    expected = _EXPECTED.fullmatch(problem)
    if expected is None:
        return f"{where}: {problem}"
    words = (_WORDS.get(part, part) for part in expected["kinds"].split(" | "))
    return f"{where} must be {' or '.join(words)}{expected['limit']}"


@dataclasses.dataclass(frozen=True)
class _Key:
    """One step of a path: a field, an entry of an object, or the index in a list."""

    name: str | int
    is_field: bool = False


def _step(key: _Key) -> str:
    return f".{key.name}" if key.is_field else f"[{key.name!r}]"


def _keys(place: str, of_a_name: bool, message: str, data: Any, kind: Any) -> list[_Key]:
    """Return the steps of a path; msgspec leaves out the names of entries, which are found by trying each alone."""
    keys: list[_Key] = []
    for field, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", place + "[...]" * of_a_name):
        if index == "...":
            inside = functools.reduce(lambda value, key: value[key.name], keys, data)
            data, name = _only_wrong_entry(data, keys, inside, message, kind)
            keys.append(_Key(name))
        else:
            keys.append(_Key(field, True) if field else _Key(int(index)))
    return keys


def _only_wrong_entry(
    data: Any, keys: Sequence[_Key], entries: Mapping[str, Any], message: str, kind: Any
) -> tuple[Any, str]:
    """Return data with one entry only, the one that alone is refused with the same message, and that entry's name."""
    for name in itertools.islice(entries, _MOST_TRIED):
        alone = _with(data, keys, {name: entries[name]})
        try:
            msgspec.convert(alone, kind)
        except msgspec.ValidationError as error:
            if str(error) == message:
                return alone, name
    return data, next(iter(entries))


def _with(data: Any, keys: Sequence[_Key], value: Any) -> Any:
    """Return data with another value at a place."""
    if not keys:
        return value
    copy: Any = dict(data) if isinstance(data, dict) else list(data)
    copy[keys[0].name] = _with(data[keys[0].name], keys[1:], value)
    return copy


def _choices(kind: Any, keys: Sequence[_Key]) -> list[str | int]:
    """Return the values that a field may have."""
    found: list[msgspec.inspect.Type] = [msgspec.inspect.type_info(kind)]
    for key in keys:
        found = [inner for item in found for inner in _inside(item, key)]
    return [value for item in found for value in getattr(item, "values", ())]


def _inside(of: msgspec.inspect.Type, key: _Key) -> list[msgspec.inspect.Type]:
    """Return what a type says of one of its fields, entries or items; unions as their members."""
    inspect = msgspec.inspect
    match of:
        case inspect.UnionType():
            return [inner for item in of.types for inner in _inside(item, key)]
        case inspect.StructType() if key.name == of.tag_field:
            return [inspect.LiteralType((of.tag,))]
        case inspect.StructType() | inspect.DataclassType():
            return [inner for field in of.fields if field.encode_name == key.name for inner in _members(field.type)]
        case inspect.DictType():
            return _members(of.value_type)
        case inspect.VarTupleType() | inspect.ListType():
            return _members(of.item_type)
        case inspect.TupleType() if isinstance(key.name, int):
            return _members(of.item_types[key.name])
    return []


def _members(of: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    return list(of.types) if isinstance(of, msgspec.inspect.UnionType) else [of]
