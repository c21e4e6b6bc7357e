#!/usr/bin/env python3
"""Write the ranges of characters that the C++ tokenizers ask about, from Python's own Unicode tables.

Example:
    python tools/write_unicode_ranges.py > plugins/runtime/text/unicode_ranges.gen.h
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator

# Of Other_Alphabetic, those that are no marks; and the joiners. \\w holds both.
_WORD_SYMBOLS = ((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189), (0x200C, 0x200D))
_HANGUL_VOWELS_AND_TAILS = range(0x1161, 0x11C3)


def _seconds() -> set[str]:
    """Return the characters that some character is composed with."""
    found = {chr(code) for code in _HANGUL_VOWELS_AND_TAILS}
    for code in range(sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return found


_COMPOSING = _seconds()


def _letter(character: str) -> bool:
    return unicodedata.category(character)[0] == "L"


def _number(character: str) -> bool:
    return unicodedata.category(character)[0] == "N"


def _word(character: str) -> bool:
    kind = unicodedata.category(character)
    symbol = any(first <= ord(character) <= last for first, last in _WORD_SYMBOLS)
    return kind[0] in "LM" or kind in ("Nd", "Nl", "Pc") or symbol


def _may_compose(character: str) -> bool:
    changes = unicodedata.normalize("NFC", character) != character
    return changes or unicodedata.combining(character) != 0 or character in _COMPOSING


def _compatible(character: str) -> bool:
    return unicodedata.normalize("NFKC", character) != character


_TABLES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "kLetters": (r"\p{L}", _letter),
    "kNumbers": (r"\p{N}", _number),
    "kWords": (r"\w: letters, marks, digits, connectors and joiners", _word),
    "kMayCompose": ("Characters that normal form C changes, or may join or reorder", _may_compose),
    "kCompatible": ("Characters that normal form KC changes", _compatible),
}


def ranges(holds: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """Yield the first and last code of each range of characters, surrogates left out."""
    first = -1
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and not 0xD800 <= code < 0xE000 and holds(chr(code))
        if inside and first < 0:
            first = code
        if not inside and first >= 0:
            yield first, code - 1
            first = -1


def main() -> None:
    """Print the header."""
    print(f"// Written by tools/write_unicode_ranges.py from Unicode {unicodedata.unidata_version}.")
    print("#pragma once\n\nnamespace hsm::runtime::text {\n\nstruct Range {\n  char32_t first, last;\n};")
    for name, (comment, holds) in _TABLES.items():
        items = [f"{{0x{first:x}, 0x{last:x}}}," for first, last in ranges(holds)]
        lines = "\n".join("    " + " ".join(items[start : start + 5]) for start in range(0, len(items), 5))
        print(f"\n// {comment}.\n// clang-format off\ninline constexpr Range {name}[] = {{\n{lines}\n}};")
        print("// clang-format on")
    print("\n}  // namespace hsm::runtime::text")


if __name__ == "__main__":
    main()
