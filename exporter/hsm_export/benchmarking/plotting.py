"""Draw a benchmark: time and memory against length, on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, UsageError
from ..files import atomic_path
from .result import threads_in_words

if TYPE_CHECKING:
    from .result import BenchResult, Measurement

_FORMATS = (".png", ".svg")


def check_plot(path: str | Path) -> None:
    """Raise an error, before anything is measured, when a plot cannot be drawn there.

    Raises:
        UsageError: the name does not end in .png or .svg.
        MissingDependencyError: matplotlib is not installed.
    """
    from importlib.util import find_spec

    if Path(path).suffix.lower() not in _FORMATS:
        raise UsageError(f"cannot draw {path}: the name must end in {' or '.join(_FORMATS)}")
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("drawing needs matplotlib", "pip install 'hsm-export[plot]'")


def plot(result: BenchResult, path: str | Path) -> None:
    """Draw time and memory against length, with a mark where one runtime overtakes another.

    Raises:
        UsageError: the name does not end in .png or .svg, or the model's inputs have a fixed length.
        MissingDependencyError: matplotlib is not installed.
        BadInputError: the file cannot be written.
    """
    check_plot(path)
    if not result.lengths:
        raise UsageError("there is nothing to draw: the model's inputs have a fixed length", "leave --plot out")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    _lines(time_axes, result, lambda item: item.seconds.median * 1e3, "milliseconds per run")
    time_axes.set_yscale("log")
    _lines(memory_axes, result, lambda item: item.extra_bytes / 2**20, "MiB beyond the loaded model")
    # Below 1 MiB it does not matter, and runs that take none have no place on a logarithmic axis.
    memory_axes.set_yscale("symlog", linthresh=1)
    memory_axes.set_ylim(bottom=0)
    _mark_spread(time_axes, result)
    _mark_crossovers(time_axes, result)
    figure.legend(*time_axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(_runtimes(result)))
    figure.suptitle(
        f"{Path(result.model).name}, {result.precision}, batch {result.batch}, {threads_in_words(result.threads)}"
    )
    with atomic_path(path) as scratch:
        figure.savefig(scratch, format=Path(path).suffix[1:].lower(), dpi=150)


def _lines(axes: Any, result: BenchResult, value: Callable[[Measurement], float], label: str) -> None:
    for runtime in _runtimes(result):
        items = [item for item in result.measurements if item.runtime == runtime]
        axes.plot([item.length for item in items], [value(item) for item in items], marker="o", label=runtime)
    axes.set(xscale="log", xlabel="length in tokens", ylabel=label)
    axes.set_xticks(result.lengths, [str(length) for length in result.lengths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _mark_spread(axes: Any, result: BenchResult) -> None:
    """Shade the range between the quartiles."""
    for index, runtime in enumerate(_runtimes(result)):
        items = [item for item in result.measurements if item.runtime == runtime]
        axes.fill_between(
            [item.length for item in items],
            [item.seconds.q1 * 1e3 for item in items],
            [item.seconds.q3 * 1e3 for item in items],
            color=f"C{index}",
            alpha=0.2,
        )


def _mark_crossovers(axes: Any, result: BenchResult) -> None:
    """Ring the points where lines cross, and write beside them which runtime is quicker on which side."""
    import numpy as np

    for crossover in result.crossovers:
        items = [item for item in result.measurements if item.runtime == crossover.quicker_below]
        lengths = [math.log(item.length) for item in items if item.length is not None]
        times = [math.log(item.seconds.median * 1e3) for item in items if item.length is not None]
        height = math.exp(np.interp(math.log(crossover.length), lengths, times))
        bottom, top = map(math.log, axes.get_ylim())
        is_low = math.log(height) < (bottom + top) / 2
        axes.axvline(crossover.length, color="grey", linestyle=":", linewidth=1)
        axes.plot(crossover.length, height, marker="o", markersize=11, fillstyle="none", color="black")
        axes.annotate(
            f"{crossover.quicker_below} | {crossover.quicker_above}: {crossover.length:.0f}",
            (crossover.length, 0.98 if is_low else 0.02),  # away from the ring
            xycoords=("data", "axes fraction"),
            rotation=90,
            fontsize=7,
            ha="center",
            va="top" if is_low else "bottom",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            zorder=5,
        )


def _runtimes(result: BenchResult) -> list[str]:
    return list(dict.fromkeys(item.runtime for item in result.measurements))
