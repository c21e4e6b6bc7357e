"""docs/gpu-report.md: what a GPU answered, or, until one was there, what it is going to be asked."""

from __future__ import annotations

import json
import shlex
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import LIBRARY, OUTPUT, STEPS

Row = dict[str, Any]
_TAIL = 3000  # characters of a failure


# ---------------------------------------------------------------- results


def results(output: Path) -> Row:
    """Gather what the steps left in a folder into one document.

    Args:
        output: the folder; it holds run.json.
    """
    document: Row = json.loads((output / "run.json").read_text(encoding="utf-8"))
    document["device"] = {}
    for name in ("numbers", "times"):
        path = output / f"{name}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"device": {}, "rows": {}}
        document["device"] |= found["device"]
        document[name] = [row for rows in found["rows"].values() for row in rows]
    document["tests"] = tests(output / "engines.xml")
    return document


def tests(path: Path) -> Row:
    """Return the outcomes, measurements, failures and reasons of skips that a JUnit file holds."""
    cases = list(ElementTree.parse(path).getroot().iter("testcase")) if path.exists() else []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    failures = []
    for case in cases:
        tags = {child.tag: child for child in case}
        wrong = tags.get("failure", tags.get("error"))
        outcome = "failed" if wrong is not None else "skipped" if "skipped" in tags else "passed"
        counts[f"{case.get('classname')}.{case.get('name', '').partition('[')[0]}"][outcome] += 1
        if wrong is not None:
            failures.append([case.get("name"), (wrong.text or wrong.get("message", "")).strip()[-_TAIL:]])
    measured = [[c.get("name"), i.get("name"), i.get("value")] for c in cases for i in c.iter("property")]
    skips = Counter(skip.get("message", "") for case in cases for skip in case.iter("skipped"))
    return {"counts": counts, "measured": sorted(measured), "failures": failures, "skips": skips}


# ---------------------------------------------------------------- page


def page(document: Row | None) -> str:
    """Return the page: of results, or of what is going to be asked."""
    status = _seen(document) if document else _nothing_seen()
    return "\n".join(["# What a GPU says", "", *status, *_plan(), *(_answers(document) if document else [])]) + "\n"


def _nothing_seen() -> list[str]:
    return [
        "**No GPU has run this yet.** `python tools/gpu_report.py --report` wrote this page, and makes it of results",
        "as soon as there are some. Until then [cuda-report.md](cuda-report.md) has what machine code predicts.",
        "",
    ]


def _seen(document: Row) -> list[str]:
    device = document["device"]
    return [
        f"- GPU: {', '.join(document['gpu'])}, {device.get('multiprocessors', '?')} multiprocessors",
        f"- driver: CUDA {document['driver']}",
        f"- kernels: {document['kernels']} (commit {document['commit']})",
        f"- date: {document['date']}",
        f"- machine: {document['machine']}",
        f"- versions: {', '.join(document['versions'])}",
        "",
    ]


def _plan() -> list[str]:
    """The steps and their commands."""
    lines = [
        "## What is asked",
        "",
        "`make gpu-test` asks all of it, in this order; `python3 tools/gpu_report.py STEP… --output DIR` only some, so",
        "that a machine that is lent for minutes can be asked in several calls. It needs Python, PyTorch and what",
        "a row names; without a network, `.cache` has to come along. The limit is in minutes.",
        "",
        *_table(
            ("step", "needs", "limit", "what it answers"),
            ([f"`{step.name}`", step.tool or "-", f"{step.minutes:g}", step.answers] for step in STEPS),
        ),
        "The commands, with `PYTHONPATH=plugins:exporter:models:.`:",
        "",
        "```sh",
    ]
    for step in STEPS:
        lines.append(shlex.join(step.filled(LIBRARY, OUTPUT, "python3")))
    return [*lines, "```"]


def _answers(document: Row) -> list[str]:
    return [
        "",
        "## Outcomes",
        "",
        *_table(
            ("step", "outcome", "seconds"),
            ([f"`{name}`", step["outcome"], str(step["seconds"])] for name, step in document["steps"].items()),
        ),
        *_numbers(document["numbers"]),
        *_times(document["times"]),
        *_tests(document["tests"]),
    ]


def _numbers(rows: Sequence[Row]) -> list[str]:
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["operator"], row["tactic"], row["type"]].append(row)
    lines = []
    for group, found in sorted(groups.items()):
        verdicts = Counter(row["verdict"] for row in found)
        worst = max((row["error_of_allowed"] for row in found if "error_of_allowed" in row), default=None)
        told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        lines.append([*group, told, "-" if worst is None else f"{worst:.2f}"])
    return _section(
        "Numbers",
        "The largest error is in parts of what is allowed.",
        ("operator", "tactic", "type", "calls", "largest error"),
        lines,
    )


def _times(rows: Sequence[Row]) -> list[str]:
    best = {
        row["ceiling"]: value
        for row in rows
        for key, value in row.items()
        if key.endswith("_per_second") and "ceiling" in row
    }
    copy = best.get("copy")
    told = [f"{name}: {value / 1e12:.3g} T/s" for name, value in best.items()]
    lines = []
    for row in (row for row in rows if "seconds" in row):
        sizes = " ".join(f"{name}={size}" for name, size in row["sizes"].items())
        share = f"{row['bytes_per_second'] / copy:.2f}" if copy else "-"
        ratios = ", ".join(
            f"{k.removesuffix('_over_ours')} {v:.2f}" for k, v in row.items() if k.endswith("_over_ours")
        )
        lines.append([row["operator"], sizes, row["type"], row["tactic"], f"{1e6 * row['seconds']:.1f}", share, ratios])
    return _section(
        "Times",
        f"Ratios are the other's time over ours. What the GPU reaches at best: {'; '.join(told)}.",
        ("operator", "sizes", "type", "tactic", "us", "of a copy's rate", "ratios"),
        lines,
    )


def _tests(found: Row) -> list[str]:
    counts = [
        [name, *(str(n.get(one, 0)) for one in ("passed", "failed", "skipped"))]
        for name, n in sorted(found["counts"].items())
    ]
    lines = _section("Engines and runtimes", "", ("test", "passed", "failed", "skipped"), counts)
    lines += _section(
        "Measured in them", "", ("test", "what", "value"), ([f"`{n}`", w, v] for n, w, v in found["measured"])
    )
    for name, text in found["failures"]:
        lines += ["", f"### Failed: {name}", "", "```text", text, "```"]
    return lines + [
        line for reason, n in sorted(found["skips"].items()) for line in ("", f"Skipped, {n} times: {reason}")
    ]


def _section(title: str, words: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = list(rows)
    return ["", f"## {title}", "", *([words, ""] if words else []), *_table(head, table)] if table else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]
