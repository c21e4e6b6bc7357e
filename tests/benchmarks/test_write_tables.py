"""The tables of docs/performance.md, made from the benchmarks' records."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "write_tables.py"


def renewed(old: str, records: list[dict[str, Any]]) -> str:
    spec = importlib.util.spec_from_file_location("write_tables", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.renewed(old, records))


def record(threads: int, measured: str, holds: bool, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "script": "a_vs_b",
        "date": "2026-01-02",
        "commit": "abc",
        "machine": "m",
        "threads": threads,
        "versions": {"torch": "1"},
        "load": [0.0, 1.0],
        "claims": [{"claim": "a over b", "measured": measured, "bound": ">= 2", "holds": holds}],
        "rows": rows,
    }


def test_thread_counts_stand_side_by_side_and_what_is_missed_is_bold() -> None:
    text = renewed(
        "",
        [
            record(2, "1.5", False, [{"length": 8, "ms": 1234.56}, {"other": None}]),
            record(1, "3", True, [{"length": 8, "ms": 0.5}]),
        ],
    )
    lines = text.splitlines()
    assert "| claim | bound | 1 thread | 2 threads |" in lines
    assert "| a over b | >= 2 | 3 | **1.5** |" in lines
    start = lines.index("| threads | length | ms |")
    assert lines[start + 2 : start + 4] == ["| 1 | 8 | 0.5 |", "| 2 | 8 | 1235 |"]
    assert "| 2 |  |" in lines
    assert "## a vs b" in lines


def test_what_was_not_measured_again_stays() -> None:
    old = "\n## a vs b\n\nof last year\n\n## z\n\nof last week\n\n| t |\n"
    text = renewed(old, [record(1, "3", True, [{"ms": 0.5}])])
    assert text.endswith("| 1 | 0.5 |\n\n## z\n\nof last week\n\n| t |\n")
    assert "last year" not in text
    assert renewed(text, []) == text
