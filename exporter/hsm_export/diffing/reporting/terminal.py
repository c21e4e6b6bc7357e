"""A diff on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...comparison.predictions import ClassifierMetrics, LanguageMetrics
from ..results import Bisection, Culprit, DiffResult, LayerDiff, RuntimeDiff
from . import words

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_COLOURS = {
    "same": "green",
    "differs": "bold red",
    "not judged": "yellow",
    "failed": "bold red",
    "skipped": "yellow",
}
_MOST_LAYERS = 10
_MOST_LINES = 10


def render(result: DiffResult) -> RenderableType:
    """Return a diff as tables of runtimes and worst layers, with the culprits, what else was found, and the verdict."""
    from rich.console import Group

    lines: list[Any] = [_runtimes(result)]
    layers = _worst_layers(result)
    if layers:
        lines.append(_layers(result, layers))
    lines += [_line(f"warning: {warning}", "bold yellow") for warning in result.warnings]
    for culprit in result.culprits:
        lines += _culprit(culprit)
    lines += [_line(_bisection(item)) for item in result.bisections]
    lines += [_line(text) for runtime in result.runtimes for text in _meaning(runtime)]
    lines += _regressions(result)
    lines += [_line(f"problem: {problem}", "red") for problem in result.problems]
    lines += [_line(f"--fail-on {sentence}", "red") for sentence in result.violated]
    lines += [_line(f"note: {note}", "dim") for note in _notes(result)]
    return Group(*lines, *_verdict(result))


def _line(text: str, style: str = "") -> RenderableType:
    from rich.text import Text

    return Text(words.visible(text), style=style)


def _verdict(result: DiffResult) -> list[RenderableType]:
    from rich.text import Text

    verdict = words.verdict(result)
    head = Text(verdict.word, style="bold green" if verdict.passed else "bold red")
    head.append(f" {words.visible(verdict.sentence)}", style="default not bold")
    return [head, _line(f"next: {verdict.next_step} {verdict.command}".rstrip())]


def _cell(text: str) -> str:
    """Return text for a table's cell: without control characters and without markup."""
    from rich.markup import escape

    return escape(words.visible(text))


def _runtimes(result: DiffResult) -> Table:
    """Return one row a runtime: its worst output."""
    from rich import box
    from rich.table import Table

    against = f" against {words.file_name(result.against)}" if result.against else ""
    title = f"{words.file_name(result.model)} ({result.precision}){against}, reference {result.reference}"
    table = Table(title=_cell(title), title_justify="left", box=box.SIMPLE)
    table.add_column("runtime", no_wrap=True)
    table.add_column("worst output", no_wrap=True, max_width=20)
    table.add_column("case")
    for heading in ("max error", "allowed", "of it"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("decided by", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for item in result.runtimes:
        verdict = f"[{_COLOURS[item.verdict]}]{words.row_verdict(item)}[/]"
        worst = item.worst
        if worst is None:
            table.add_row(_cell(item.runtime), "–", _cell(words.reason(item) or "–"), *["–"] * 4, verdict)
            continue
        error, allowed = words.number(worst.errors.max_abs), words.number(worst.threshold.value)
        row = (_cell(item.runtime), _cell(worst.output), _cell(worst.case), error, allowed, words.times(worst.severity))
        table.add_row(*row, worst.threshold.source, verdict)
    return table


def _worst_layers(result: DiffResult) -> list[LayerDiff]:
    layers = [item for runtime in result.runtimes for item in runtime.layers]
    return sorted(layers, key=lambda item: (item.passed, -item.severity))[:_MOST_LAYERS]


def _layers(result: DiffResult, layers: list[LayerDiff]) -> Table:
    """Return the layers nearest to their thresholds, or furthest beyond."""
    from rich import box
    from rich.table import Table

    total = sum(len(runtime.layers) for runtime in result.runtimes)
    title = f"Worst {len(layers)} of {total:,} layers (case {result.layer_case!r})"
    table = Table(title=_cell(title), title_justify="left", box=box.SIMPLE)
    table.add_column("runtime", no_wrap=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("node", overflow="fold")
    table.add_column("operator", no_wrap=True, max_width=22)
    for heading in ("total", "inherited", "own", "allowed", "of it"):
        table.add_column(heading, justify="right", no_wrap=True)
    for item in layers:
        allowed = words.number(item.threshold.value if item.threshold else None)
        numbers = (words.number(item.total), words.number(item.inherited), words.number(item.own), allowed)
        style = "" if item.passed else "bold red"
        names = (_cell(item.runtime), str(item.index), _cell(item.node), _cell(item.operator))
        table.add_row(*names, *numbers, words.times(item.severity) if item.own is not None else "–", style=style)
    return table


def _culprit(item: Culprit) -> list[RenderableType]:
    lines = [_line(item.line, "bold red")]
    facts = [f"inputs {words.shapes(item.input_shapes)}"] if item.input_shapes else []
    facts += [", ".join(f"{name}={value}" for name, value in item.attributes.items())] if item.attributes else []
    facts += [f"{words.count(item.consequences, 'later node')} beyond the threshold too"] if item.consequences else []
    facts += [f"run it alone: {item.command}"] if item.command else []
    return [*lines, *(_line(f"    {fact}") for fact in facts)]


def _bisection(item: Bisection) -> str:
    if item.reason:
        return f"bisect {item.good} | {item.bad}: {item.reason}"
    nodes = ", ".join(f"{name} ({operator})" for name, operator in item.nodes[:_MOST_LINES])
    more = f" and {len(item.nodes) - _MOST_LINES} more" if len(item.nodes) > _MOST_LINES else ""
    error = f"error {words.number(item.error)}, allowed {words.number(item.tolerance)}; {words.count(item.runs, 'run')}"
    return f"bisect: {item.bad} instead of {item.good} for {nodes}{more} makes it fail ({error})"


def _meaning(item: RuntimeDiff) -> list[str]:
    """Say what a runtime's differences mean for the model's task."""
    lines = predictions(item.runtime, item.language, item.classifier)
    return [*lines, f"{item.runtime}: {words.experts(item)} expert choices flip"] if item.flips else lines


def predictions(runtime: str, language: LanguageMetrics | None, classifier: ClassifierMetrics | None) -> list[str]:
    """Say how far a runtime's predictions are the reference's, and what that costs."""
    parts = words.predicted(language, classifier)
    if language is not None and language.greedy_tokens:
        parts.append(f"greedy text parts {words.divergence(language)}")
    lines = [f"{runtime}: {'; '.join(parts)}"] if parts else []
    if language is not None and (change := words.perplexity_change(language)) is not None:
        lines.append(f"{runtime}: perplexity {words.exact(language.perplexity)}, {change:+.3%} of the reference's")
    if classifier is not None and classifier.accuracy is not None:
        accuracy, wanted = words.share(classifier.accuracy), words.share(classifier.reference_accuracy)
        lines.append(f"{runtime}: accuracy {accuracy}, of the reference {wanted}")
    return lines


def _regressions(result: DiffResult) -> list[RenderableType]:
    lines = []
    for item in result.regressions[:_MOST_LINES]:
        before, now = words.change(item)
        lines.append(_line(f"since the baseline: {item.what} {item.name}: {before} before, {now} now", "red"))
    if len(result.regressions) > _MOST_LINES:
        lines.append(_line(f"since the baseline: {len(result.regressions) - _MOST_LINES} more", "red"))
    return lines


def _notes(result: DiffResult) -> list[str]:
    notes = list(result.notes)
    notes += [f"{runtime.runtime}: {note}" for runtime in result.runtimes for note in runtime.notes]
    return notes if result.complete else [*notes, "it ended early; what is shown is what was compared until then"]
