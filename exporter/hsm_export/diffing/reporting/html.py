"""A diff as one HTML file that needs nothing else: no network, no font, no script."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...comparison.result import ComparedOutput
from ...files import atomic_path
from ..results import DiffResult, LayerDiff
from . import charts, words

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_ROWS = 200


def write_html(result: DiffResult, path: str | Path) -> None:
    """Write a result as a report for people.

    Raises:
        BadInputError: the file cannot be written.
    """
    text = html(result)
    with atomic_path(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def html(result: DiffResult) -> str:
    """Return the report as text."""
    outputs = sorted((item for runtime in result.runtimes for item in runtime.outputs), key=_output_order)
    layers = sorted((item for runtime in result.runtimes for item in runtime.layers), key=_layer_order)
    histograms, histograms_left_out = charts.histograms(result)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            result=result,
            verdict=words.verdict(result),
            outputs=outputs[:_MOST_ROWS],
            all_outputs=len(outputs),
            origins=_origins(outputs)[:_MOST_ROWS],
            layers=layers[:_MOST_ROWS],
            all_layers=len(layers),
            drawn=charts.layers(result),
            histograms=histograms,
            histograms_left_out=histograms_left_out,
            meant=[item for item in result.runtimes if item.language or item.classifier or item.choices],
        )
    )


def _output_order(item: ComparedOutput) -> tuple[bool, float]:
    return item.passed, -item.severity


def _layer_order(item: LayerDiff) -> tuple[bool, float, float]:
    return item.passed, -item.severity, -item.total


def _origins(outputs: list[ComparedOutput]) -> list[ComparedOutput]:
    """Return the worst case of every runtime and output: its threshold is the one that is explained."""
    worst: dict[tuple[str, str], ComparedOutput] = {}
    for item in outputs:
        worst.setdefault((item.runtime, item.output), item)
    return list(worst.values())


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.globals |= {
        "style": Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),
        "charts": charts,
        "histogram": charts.histogram,
        "perplexity_change": words.perplexity_change,
        "most_rows": _MOST_ROWS,
    }
    names = "count exact file_name index number seconds shape shapes share shortened size times visible"
    environment.filters |= {name: getattr(words, name) for name in names.split()}
    environment.filters |= {
        "change": words.change,
        "command": _command,
        "divergence": words.divergence,
        "experts": words.experts,
        "heat": charts.heat,
        "meaning": words.meaning,
        "reason": words.reason,
    }
    return environment


def _finalize(value: Any) -> Any:
    """Make control characters visible in every expression of every template."""
    from markupsafe import Markup

    return words.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _command(text: str) -> Markup:
    """Return a command of several lines, whose line breaks stay."""
    from markupsafe import Markup, escape

    return Markup("\n").join(escape(words.visible(line)) for line in text.splitlines())
