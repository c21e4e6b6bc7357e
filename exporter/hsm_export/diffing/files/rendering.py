"""A diff of two files for people: on the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ...comparison.result import ComparedOutput
from ..reporting.words import visible
from .results import NodeChange, StructureDiff, WeightChange

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN = 40  # rows of a table; the JSON form has all of them
# (title, headings, rows)
Section = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]


def render_structure(result: StructureDiff) -> RenderableType:
    """Return what the terminal shows."""
    from rich.console import Group
    from rich.table import Table

    parts: list[RenderableType] = []
    for title, headings, rows in _sections(result):
        table = Table(*headings, title=title, title_justify="left")
        for row in rows[:_SHOWN]:
            table.add_row(*map(_shown, row))
        if len(rows) > _SHOWN:
            table.caption = f"and {len(rows) - _SHOWN} more: --json has all of them"
        parts.append(table)
    parts += [_shown(f"note: {note}") for note in result.notes]
    return Group(*parts, _shown(result.summary))


def structure_markdown(result: StructureDiff) -> str:
    """Return the same as a Markdown document."""
    lines = ["# Difference of two ONNX files", "", _cell(result.summary), ""]
    for title, headings, rows in _sections(result):
        lines += [f"## {title}", "", _row(headings), _row("---" for _ in headings)]
        lines += [_row(row) for row in rows[:_SHOWN]]
        lines += ["", f"And {len(rows) - _SHOWN} more: the JSON form has all of them."] if len(rows) > _SHOWN else []
        lines.append("")
    lines += [f"- {_cell(note)}" for note in result.notes]
    return "\n".join(lines).rstrip() + "\n"


def _sections(result: StructureDiff) -> Iterator[Section]:
    yield (
        "files",
        ("", "file", "bytes", "operators"),
        [
            ("old", result.old, f"{result.old_bytes:,}", f"{result.old_nodes:,}"),
            ("new", result.new, f"{result.new_bytes:,}", f"{result.new_nodes:,}"),
        ],
    )
    if result.properties:
        yield (
            "inputs, outputs, metadata",
            ("", "name", "old", "new"),
            [(item.what, item.name, _text(item.old), _text(item.new)) for item in result.properties],
        )
    if result.nodes:
        yield "operators", ("", "operator", "node", "what"), [_node_row(item) for item in result.nodes]
    if result.functions:
        rows: list[tuple[str, ...]] = []
        for body in result.functions:
            rows.append((body.kind, body.name, "", "; ".join(body.details)))
            rows += [_node_row(node) for node in body.nodes]
        yield "functions", ("", "operator", "node", "what"), rows
    if result.weights:
        headings = ("", "weight", "type and shape", "relative L2", "largest", "what")
        yield "weights", headings, [_weight_row(item) for item in result.weights]
    if result.outputs:
        headings = ("runtime", "output", "case", "error", "allowed", "verdict")
        yield "outputs", headings, [_output_row(item) for item in _worst_first(result.outputs)]


def _node_row(item: NodeChange) -> tuple[str, ...]:
    renamed = item.old_node not in (None, item.node)
    name = f"{item.old_node} → {item.node}" if renamed else item.node
    return item.kind, item.operator, name, "; ".join(item.details)


def _weight_row(item: WeightChange) -> tuple[str, ...]:
    renamed = item.old_name not in (None, item.name)
    before, after = (
        f"{kind} {'×'.join(map(str, shape)) or 'scalar'}" if kind else ""
        for kind, shape in ((item.old_type, item.old_shape), (item.new_type, item.new_shape))
    )
    return (
        item.kind,
        f"{item.old_name} → {item.name}" if renamed else item.name,
        f"{before} → {after}" if before and after and before != after else after or before,
        "" if item.relative_l2 is None else f"{item.relative_l2:.3g}",
        "" if item.max_abs is None else f"{item.max_abs:.3g}",
        item.note,
    )


def _output_row(item: ComparedOutput) -> tuple[str, ...]:
    verdict = item.reason or "same within rounding"
    return (
        item.runtime,
        item.output,
        item.case,
        f"{item.errors.max_abs:.3g}",
        f"{item.threshold.value:.3g}",
        verdict,
    )


def _worst_first(outputs: Iterable[ComparedOutput]) -> list[ComparedOutput]:
    return sorted(outputs, key=lambda item: -item.severity)


def _text(value: str | None) -> str:
    """Return a value in one short line: metadata may be long JSON."""
    text = "none" if value is None else " ".join(value.split())
    return text if len(text) <= 100 else f"{text[:100]}…"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _shown(text: str) -> str:
    """Return text for the terminal: names come from strangers' files, and may hold markup and control characters."""
    from rich.markup import escape

    return escape(visible(text))


def _cell(text: str) -> str:
    """Return text that cannot break out of its cell."""
    return (
        visible(" ".join(text.split()))
        .replace("\\", "\\\\")
        .replace("|", "\\|")
        .replace("<", "&lt;")
        .replace("`", "\\`")
    )
