"""A diff as Markdown for a pull request: verdict, short table, culprit; the rest is folded away."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...comparison.result import ComparedOutput
from ..results import Culprit, DiffResult, RuntimeDiff
from . import words

# GitHub takes 65,536 characters a comment; others are as strict.
_MOST_CHARACTERS = 60_000
_MOST_ROWS = 20
_LONGEST_CODE = 500
_MARKS = {"same": "✅", "differs": "❌", "not judged": "➖", "skipped": "➖", "failed": "❌"}


def markdown(result: DiffResult) -> str:
    """Return a result as GitHub-flavoured Markdown of at most 60,000 characters.

    Whatever comes from a file stands in code spans, where it can neither mark up, mention anybody nor link anywhere.
    """
    verdict = words.verdict(result, code)
    mark = "✅" if verdict.passed else "❌"
    head = [
        f"### {mark} {verdict.word}: {code(words.file_name(result.model))} ({result.precision})",
        f"**{verdict.sentence}**",
        verdict.next_step + (f"\n\n{_block(verdict.command)}" if verdict.command else ""),
        _runtimes(result),
        *[_culprit(item) for item in result.culprits[:3]],
        *_bullets("Violated rules", result.violated),
        *_bullets("Problems", result.problems),
        *_bullets("Warnings", result.warnings),
    ]
    folded = [
        _folded("Worst cases", _worst(result)),
        _folded("Since the baseline", _regressions(result)),
        _folded("Bisection", _bisections(result)),
        _folded("Notes", "\n".join(f"- {code(note)}" for note in _notes(result))),
        _folded("Environment", _environment(result)),
    ]
    return _joined([part for part in head if part], [part for part in folded if part])


def code(text: str) -> str:
    """Return text as a code span that nothing inside can end."""
    text = words.visible(text)
    if len(text) > _LONGEST_CODE:
        text = f"{text[:_LONGEST_CODE]}…"
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) or not text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _joined(head: Sequence[str], folded: Sequence[str]) -> str:
    text = "\n\n".join(head)
    left_out = 0
    for part in folded:
        if len(text) + len(part) > _MOST_CHARACTERS - 200:
            left_out += 1
        else:
            text = f"{text}\n\n{part}"
    if left_out:
        text = (
            f"{text}\n\n{words.count(left_out, 'section')} left out: too long for a comment. The HTML report has all."
        )
    return f"{text}\n"


def _block(text: str) -> str:
    """Return a command as a code block that nothing inside can end."""
    lines = [words.visible(line) for line in text.splitlines()]
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}sh", *lines, fence])


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # Tables are cut into cells before code spans are found.
    lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    if not lines:
        return ""
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *lines))


def _runtimes(result: DiffResult) -> str:
    headings = ("runtime", "verdict", "worst output", "error", "allowed", "of it", "meaning")
    rows = [_runtime(item) for item in result.runtimes[:_MOST_ROWS]]
    more = len(result.runtimes) - len(rows)
    return _table(headings, rows) + (f"\n\n{words.count(more, 'more runtime')}." if more > 0 else "")


def _runtime(item: RuntimeDiff) -> Sequence[str]:
    worst = item.worst
    if worst is None:
        return (
            code(item.runtime),
            f"{_MARKS[item.verdict]} {item.verdict}",
            code(words.reason(item)) if item.reason else "–",
            "",
            "",
            "",
            "",
        )
    numbers = words.number(worst.errors.max_abs), words.number(worst.threshold.value), words.times(worst.severity)
    verdict = f"{_MARKS[item.verdict]} {words.row_verdict(item)}"
    return code(item.runtime), verdict, code(worst.output), *numbers, words.meaning(item)


def _culprit(item: Culprit) -> str:
    layer = item.layer
    whose = "the file itself (its maths is not the source model's)" if item.runtime == "onnx64" else code(item.runtime)
    threshold = f", allowed {words.number(layer.threshold.value)}" if layer.threshold else ""
    lines = [
        f"#### First node at fault in {whose}",
        f"{code(layer.node)}, operator {code(layer.operator)}, {layer.dtype} {words.shape(layer.shape)}: "
        f"own error {words.number(layer.own)}{threshold}.",
        f"{code(layer.tensor + words.index(layer.errors.worst_index))} is {words.exact(layer.errors.value)}, "
        f"should be {words.exact(layer.errors.reference)}.",
    ]
    if item.consequences:
        lines.append(f"{words.count(item.consequences, 'later node')} beyond the threshold too.")
    if item.attributes:
        shown = ", ".join(f"{name}={value}" for name, value in item.attributes.items())
        lines.append(f"Attributes: {code(shown)}")
    if item.command:
        lines.append(_block(item.command))
    return "\n\n".join(lines)


def _bullets(title: str, texts: Sequence[str]) -> list[str]:
    if not texts:
        return []
    more = [f"- and {len(texts) - _MOST_ROWS} more"] if len(texts) > _MOST_ROWS else []
    return [f"**{title}**\n\n" + "\n".join([*(f"- {code(text)}" for text in texts[:_MOST_ROWS]), *more])]


def _folded(title: str, body: str) -> str:
    # Without empty lines around it GitHub takes the body for HTML.
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>" if body else ""


def _worst(result: DiffResult) -> str:
    items = [item for runtime in result.runtimes for item in runtime.outputs]
    items.sort(key=lambda item: (item.passed, -item.severity))
    headings = ("runtime", "output", "case", "error", "allowed", "decided by", "worst element", "is", "should be")
    more = f"\n\nThe worst {_MOST_ROWS} of {len(items)}." if len(items) > _MOST_ROWS else ""
    return _table(headings, [_row(item) for item in items[:_MOST_ROWS]]) + more


def _row(item: ComparedOutput) -> Sequence[str]:
    return (
        code(item.runtime), code(item.output), code(item.case), words.number(item.errors.max_abs),
        words.number(item.threshold.value), item.threshold.source, words.index(item.errors.worst_index),
        words.exact(item.errors.value), words.exact(item.errors.reference),
    )  # fmt: skip


def _regressions(result: DiffResult) -> str:
    rows = [
        (item.what, code(item.name), *words.change(item))
        for item in result.regressions[:_MOST_ROWS]
    ]  # fmt: skip
    more = len(result.regressions) - len(rows)
    return _table(("what", "which", "before", "now"), rows) + (f"\n\nand {more} more" if more else "")


def _bisections(result: DiffResult) -> str:
    lines = []
    for item in result.bisections:
        what = f"{code(item.bad)} instead of {code(item.good)}"
        if item.reason:
            lines.append(f"- {what}: {code(item.reason)}")
            continue
        nodes = ", ".join(f"{code(name)} ({code(operator)})" for name, operator in item.nodes[:_MOST_ROWS])
        more = f" and {len(item.nodes) - _MOST_ROWS} more" if len(item.nodes) > _MOST_ROWS else ""
        error = f"error {words.number(item.error)}, allowed {words.number(item.tolerance)}"
        lines.append(f"- {what} for {nodes}{more} makes it fail ({error}; {words.count(item.runs, 'run')})")
    return "\n".join(lines)


def _notes(result: DiffResult) -> Iterable[str]:
    yield from result.notes[:_MOST_ROWS]
    for runtime in result.runtimes:
        for note in runtime.notes[:_MOST_ROWS]:
            yield f"{runtime.runtime}: {note}"


def _environment(result: DiffResult) -> str:
    place = result.environment
    versions = ", ".join(f"{name} {version}" for name, version in place.versions.items())
    lines = [
        f"- {code(versions)}",
        f"- {code(place.processor)}, {words.count(place.cores, 'core')}, {code(place.system)}",
        f"- {code(place.time)}; model SHA-256 {code(result.sha256)}",
    ]
    return "\n".join(lines) + f"\n\n{_block(place.command)}"
