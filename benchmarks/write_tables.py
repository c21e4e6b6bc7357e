"""Write the tables of docs/performance.md from build/benchmarks/*.json; the text around them is written by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- tables: python benchmarks/write_tables.py -->\n", "<!-- end of tables -->\n"


def main() -> None:
    """Replace what stands between the marks."""
    records = [json.loads(path.read_text()) for path in sorted((ROOT / "build" / "benchmarks").glob("*.json"))]
    text = TARGET.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    TARGET.write_text(before + BEGIN + "\n" + tables(records) + "\n" + END + after, encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}", file=sys.stderr)


def tables(records: list[dict[str, Any]]) -> str:
    """Return the claims of all scripts, then the measurements of each."""
    lines = ["## Claims", "", "| claim | measured | bound | verdict |", "| --- | ---: | ---: | --- |"]
    for record in records:
        for item in record["claims"]:
            verdict = "met" if item["holds"] else "**not met**"
            lines.append(f"| {item['claim']} | {item['measured']} | {item['bound']} | {verdict} |")
    for record in records:
        lines += ["", f"## {record['script'].replace('_', ' ')}", "", *_about(record)]
        for rows in _groups(record["rows"]):
            lines += ["", *_table(rows)]
    return "\n".join(lines) + "\n"


def _about(record: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    before, after = record["load"]
    return [
        f"{record['date']}, commit {record['commit']}, {record['machine']}, {record['threads']} threads; {versions}; "
        f"load average {before:.1f} before, {after:.1f} after."
    ]


def _groups(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Split rows into runs with the same columns."""
    groups: list[list[dict[str, Any]]] = []
    for row in rows:
        if not groups or list(groups[-1][0]) != list(row):
            groups.append([])
        groups[-1].append(row)
    return groups


def _table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(rows[0])
    head = "| " + " | ".join(name.replace("_", " ") for name in names) + " |"
    rule = "|" + "|".join(" ---: " for _ in names) + "|"
    return [head, rule, *("| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows)]


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    main()
