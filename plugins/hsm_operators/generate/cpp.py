"""Pieces of C++ text."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping

from ..expression import to_cpp
from ..operator import BOOL, FLOAT, INT64, UINT8, Operator

NOTICE = "// Written by `python -m hsm_operators.generate` from the specifications; changes are lost.\n"
ELEMENT_TYPES = {"T": "kT", FLOAT: "kFloat32", INT64: "kInt64", BOOL: "kBool", UINT8: "kUInt8"}
C_TYPES = {"T": "void", FLOAT: "float", INT64: "std::int64_t", BOOL: "bool", UINT8: "std::uint8_t"}
ATTRIBUTE_TYPES = {"int": "kInt", "ints": "kInts", "float": "kFloat"}
WIDTH = 120

_KEYWORDS = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t char8_t class
    co_await co_return co_yield compl concept const const_cast consteval constexpr constinit continue decltype
    default delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline
    int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register
    reinterpret_cast requires return short signed sizeof static static_assert static_cast struct switch template
    this thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t
    while xor xor_eq
""".split()  # noqa: SIM905


def require_identifier(word: str, where: str) -> None:
    """Refuse a word that cannot name anything in C++."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", word) or word in _KEYWORDS or "__" in word:
        raise ValueError(f"{where}: {word!r} cannot be a name in C++; choose another")


def literal(text: str) -> str:
    """Return a string literal."""
    return json.dumps(text, ensure_ascii=False)


def integer(value: int | None, missing: str) -> str:
    """Return a 64-bit constant; `missing` where there is none, and for the smallest number, which has no literal."""
    return missing if value is None or value == -(2**63) else str(value)


def spelled(operator: Operator) -> dict[str, str]:
    """Return how the generated table writes what the operator's expressions read: sizes and whole numbers."""
    names = {name: f"v.size({index})" for index, name in enumerate(operator.sizes)}
    for index, attribute in enumerate(operator.attributes):
        if attribute.name in names:
            raise ValueError(f"operator {operator.qualified_name}: {attribute.name} is a dimension and an attribute")
        if attribute.type != "float":
            names[attribute.name] = f"v.{'number' if attribute.type == 'int' else 'list'}({index})"
    return names


def number(text: str, names: Mapping[str, str]) -> str:
    """Return a function of the Values `v` that returns an expression's Number."""
    return _function(f"return Number({unwrapped(to_cpp(text, names))});")


def condition(text: str, names: Mapping[str, str]) -> str:
    """Return a function of the Values `v` that returns whether a condition holds."""
    return _function(f"return bool({unwrapped(to_cpp(text, names))});")


def sentence(text: str, names: Mapping[str, str]) -> str:
    """Return a function of the Values `v` that returns the sentence that a text with {expressions} stands for."""
    parts = re.split(r"\{([^{}]*)\}", text)
    words = [literal(part) if index % 2 == 0 else to_cpp(part, names) for index, part in enumerate(parts) if part]
    return _function(call("return sentence", map(unwrapped, words), ";", " " * 6).strip())


def _function(body: str) -> str:
    value = " v" if "v." in body else ""
    return f"[](const Values&{value}) {{\n      {body}\n    }}"


def unwrapped(text: str) -> str:
    """Return an expression without parentheses around the whole of it."""
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and position < len(text) - 1:
            return text
    return text[1:-1] if text.startswith("(") else text


def comment(text: str, indent: str = "") -> str:
    """Return a text as lines of comment."""
    return textwrap.fill(text, WIDTH, initial_indent=f"{indent}// ", subsequent_indent=f"{indent}// ") + "\n"


def call(head: str, arguments: Iterable[str], tail: str = ";", indent: str = "") -> str:
    """Return a call or a declaration, its arguments below each other where they are too long for a line."""
    lines = [f"{indent}{head}("]
    margin = " " * len(lines[0])
    given = list(arguments)
    for index, argument in enumerate(given):
        piece = argument + (f"){tail}" if index == len(given) - 1 else ",")
        starts = lines[-1].endswith("(") and index == 0
        if not starts and len(lines[-1]) + 1 + len(piece) > WIDTH:
            lines.append(margin + piece)
        else:
            lines[-1] += piece if starts else f" {piece}"
    return "\n".join(lines) + ("" if given else f"){tail}") + "\n"
