"""Write the tables of docs/performance.md from build/benchmarks/*.json; the text around them is written by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Record = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- tables: python benchmarks/write_tables.py -->\n", "<!-- end of tables -->\n"


def main() -> None:
    """Replace what stands between the marks of each script that has records; others keep what was measured before."""
    records = [json.loads(path.read_text()) for path in sorted((ROOT / "build" / "benchmarks").glob("*-*.json"))]
    text = TARGET.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    old, after = rest.split(END)
    TARGET.write_text(before + BEGIN + renewed(old, records) + "\n" + END + after, encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}", file=sys.stderr)


def renewed(old: str, records: list[Record]) -> str:
    """Return the sections of all scripts in their names' order, with the records' in place of older ones."""
    by_script: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record["threads"]):
        by_script.setdefault(record["script"].replace("_", " "), []).append(record)
    parts = (part.partition("\n") for part in ("\n" + old).split("\n## ")[1:])
    sections = {name: body.strip("\n") for name, _, body in parts}
    sections |= {name: "\n".join(_section(group)) for name, group in by_script.items()}
    return "".join(f"\n## {name}\n\n{sections[name]}\n" for name in sorted(sections))


def _section(records: list[Record]) -> list[str]:
    """Return when a script was run, its claims by number of threads, and its measurements."""
    lines = _about(records)
    if any(record["claims"] for record in records):
        lines += ["", *_claims(records)]
    for table in _groups([{"threads": record["threads"], **row} for record in records for row in record["rows"]]):
        lines += ["", *_table(table)]
    return lines


def _claims(records: list[Record]) -> list[str]:
    """Return a row for each claim, with a column for each number of threads; a bound that is missed is bold."""
    counts = sorted({record["threads"] for record in records})
    measured: dict[str, dict[int, str]] = {}
    bounds: dict[str, dict[str, None]] = {}  # more than one where the bound depends on a measurement
    for record in records:
        for item in record["claims"]:
            value = item["measured"] if item["holds"] else f"**{item['measured']}**"
            measured.setdefault(item["claim"], {})[record["threads"]] = value
            bounds.setdefault(item["claim"], {})[item["bound"]] = None
    heads = [f"{count} thread{'s' if count > 1 else ''}" for count in counts]
    lines = [f"| claim | bound | {' | '.join(heads)} |", f"| --- | ---: |{' ---: |' * len(counts)}"]
    for claim, values in measured.items():
        cells = (claim, ", ".join(bounds[claim]), *(values.get(count, "") for count in counts))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _about(records: list[Record]) -> list[str]:
    """Say when, where and with what the runs were made."""
    first = records[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    loads = "; ".join(f"{r['threads']}: {r['load'][0]:.1f} to {r['load'][1]:.1f}" for r in records)
    return [
        f"{first['date']}, commit {first['commit']}, {first['machine']}; {versions}; load average by threads {loads}."
    ]


def _groups(rows: list[Row]) -> list[list[Row]]:
    """Put rows with the same columns together."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    return list(groups.values())


def _table(rows: list[Row]) -> list[str]:
    names = list(rows[0])
    head = "| " + " | ".join(name.replace("_", " ") for name in names) + " |"
    rule = "|" + "|".join(" ---: " for _ in names) + "|"
    return [head, rule, *("| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows)]


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    main()
