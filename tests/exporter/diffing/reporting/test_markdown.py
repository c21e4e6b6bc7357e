"""Markdown for pull requests: what GitHub would make of it, with names that want to be more than text."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from tests.exporter.diffing import synthetic

from hsm_export.diffing.reporting import markdown
from hsm_export.diffing.reporting.markdown import code


def parsed(text: str) -> list[Token]:
    """Return block tokens and, after each, its inline tokens."""
    found = []
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(text):
        found += [token, *(token.children or [])]
    return found


def test_verdict_comes_first() -> None:
    lines = markdown(synthetic.failing()).splitlines()
    assert lines[0] == "### ❌ FAILED: `hsm-lm-fp16.onnx` (fp16)"
    assert lines[2].startswith(
        "**`ort-fused` departs from `torch64`: `/layers.7/ShiftMix_44` (`ShiftMix`) is the first"
    )
    assert lines[6].startswith("```sh") or "hsm-export diff" in lines[7]


def test_passing() -> None:
    text = markdown(synthetic.passing())
    assert text.startswith(
        "### ✅ PASSED: `hsm-lm-fp16.onnx` (fp16)\n\n**Every runtime keeps the numbers of `torch64`:"
    )
    assert "Bisection" not in text and "baseline" in text


def test_structure() -> None:
    """Tables of as many cells a row as headings; folded sections that open and close."""
    text = markdown(synthetic.failing())
    tokens = parsed(text)
    assert sum(token.type == "table_open" for token in tokens) == 3
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    html = [token.content.strip() for token in tokens if token.type == "html_block"]
    assert all(re.fullmatch(r"<details><summary>[A-Z][a-z ]+</summary>|</details>", item) for item in html)
    assert html.count("</details>") == len(html) / 2 == 5


def test_hostile_text_stays_in_code() -> None:
    tokens = parsed(markdown(synthetic.hostile()))
    assert not [token for token in tokens if token.type == "html_inline" or token.type == "link_open"]
    for token in tokens:
        if token.type == "html_block":
            assert "script" not in token.content
        if token.type == "text":
            assert not re.search("script|@you|49", token.content), token.content
    assert sum("@you" in token.content for token in tokens if token.type == "code_inline") > 15


@pytest.mark.parametrize(
    "text", ["a", "`", "``a`", "a|b", " a", "", "a\nb", "<!-- ", "\\", "x`\\`", "\x1b[2J", "\u202e", "\ud800", "``` x"]
)
def test_code(text: str) -> None:
    """One code span and nothing else, whose text is the one given, with what is invisible made visible."""
    span = code(text)
    tokens = [token for token in parsed(f"a {span} b") if token.type == "code_inline"]
    assert len(tokens) == 1
    assert "".join(span.splitlines()) == span
    if text.isprintable() and text.strip() == text and text:
        assert tokens[0].content == text


def test_code_in_a_table() -> None:
    """A bar in a name does not end its cell."""
    result = synthetic.result(synthetic.RuntimeDiff("a|b", "failed", reason="x|y|z"))
    rows = [line for line in markdown(result).splitlines() if line.startswith("| `a")]
    assert len(rows) == 1 and rows[0].startswith(r"| `a\|b` | ❌ failed | `x\|y\|z` |")


def test_length_is_limited() -> None:
    """GitHub takes 65,536 characters; what does not fit is left out as a whole, and said so."""
    result = synthetic.huge(count=60)
    assert len(markdown(result)) < 60_000
    noisy = replace(result, notes=tuple("x" * 499 for _ in range(500)), warnings=tuple("y" * 5000 for _ in range(500)))
    many = replace(noisy, runtimes=tuple(replace(item, notes=("z" * 5000,) * 100) for item in result.runtimes))
    text = markdown(many)
    assert len(text) < 60_000 and "and 480 more" in text and "left out" in text
    assert text.count("<details>") == text.count("</details>")
