"""Geometry of the report's charts; the templates draw it as SVG whose colours are the page's own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..results import DiffResult, LayerDiff, RuntimeDiff
from . import words

# More columns than this are narrower than a pixel on a phone; neighbours then share one.
_MOST_COLUMNS = 240
_MOST_DECADES = 14
_MOST_HISTOGRAMS = 24

# Upper bounds of the heat map's colours, in units of the threshold; what is beyond the last has a colour too.
HEAT_BOUNDS = (0.1, 0.3, 0.6, 1.0, 3.0, 10.0)

# Size and plotting area of a chart, in units that are a pixel on a phone.
WIDTH, HEIGHT = 420.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 410.0, 12.0, 208.0
# The same of a histogram.
NARROW, LOW, FOOT = 360.0, 205.0, 165.0


@dataclass(frozen=True)
class Tick:
    """A label on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Cell:
    """A column of one runtime: where, how bad ("0" to "6", or "none" without an own error), and what to say of it."""

    at: float
    width: float
    heat: str
    fault: bool
    title: str


@dataclass(frozen=True)
class Line:
    """A line of a chart: the CSS class, and the SVG path."""

    kind: str
    path: str


@dataclass(frozen=True)
class Mark:
    """A point at fault."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Depth:
    """Error against depth of one runtime.

    Attributes:
        lines, marks, hovers: what is drawn, and what the pointer finds.
        label: names the first layer at fault, at its place; `anchor` is where its text is tied.
        faults: how many layers are at fault; a circle may stand for several.
    """

    runtime: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]
    hovers: tuple[Cell, ...]
    label: Tick | None
    anchor: str
    faults: int


@dataclass(frozen=True)
class Heat:
    """A row of the heat map."""

    runtime: str
    cells: tuple[Cell, ...]
    faults: int


@dataclass(frozen=True)
class Layers:
    """Everything that is drawn against depth.

    Attributes:
        depths, heats: a chart and a row for every runtime whose layers were compared.
        x_ticks, y_ticks: of the charts.
        columns: how many the charts and the heat map have; positions count in them.
        first, last: index of the first and the last node.
        merged: nodes that share a column; 1 when none do.
    """

    depths: tuple[Depth, ...]
    heats: tuple[Heat, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    columns: int
    first: int
    last: int
    merged: int


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram."""

    x: float
    y: float
    width: float
    height: float
    label: str
    share: str


@dataclass(frozen=True)
class Histogram:
    """Errors of one tensor in units in the last place."""

    name: str
    runtime: str
    elements: int
    bars: tuple[Bar, ...]


def layers(result: DiffResult) -> Layers | None:
    """Lay out errors against depth and the heat map; None when no layer was compared."""
    runtimes = [item for item in result.runtimes if item.layers]
    if not runtimes:
        return None
    indices = sorted({item.index for runtime in runtimes for item in runtime.layers})
    merged = math.ceil(len(indices) / _MOST_COLUMNS)
    column = {index: place // merged for place, index in enumerate(indices)}
    count = column[indices[-1]] + 1
    scale = _LogScale([item for runtime in runtimes for item in runtime.layers])
    binned = [(runtime, _bins(runtime, column)) for runtime in runtimes]
    return Layers(
        depths=tuple(_depth(runtime, bins, count, scale) for runtime, bins in binned),
        heats=tuple(_heat(runtime, bins) for runtime, bins in binned),
        x_ticks=tuple(_x_ticks(indices, column, count)),
        y_ticks=tuple(scale.ticks()),
        columns=count,
        first=indices[0],
        last=indices[-1],
        merged=merged,
    )


def histograms(result: DiffResult) -> tuple[tuple[Histogram, ...], int]:
    """Return histograms of the outputs nearest to their thresholds, all cases added up, and how many were left out."""
    counts: dict[tuple[str, str], list[int]] = {}
    severity: dict[tuple[str, str], float] = defaultdict(float)
    for runtime in result.runtimes:
        for item in runtime.outputs:
            if item.errors.ulps:
                key = (item.runtime, item.output)
                counts[key] = [a + b for a, b in zip(counts.get(key, [0] * 99), item.errors.ulps, strict=False)]
                severity[key] = max(severity[key], item.severity)
    keys = sorted(counts, key=lambda key: -severity[key])
    shown = tuple(histogram(output, runtime, counts[(runtime, output)]) for runtime, output in keys[:_MOST_HISTOGRAMS])
    return shown, max(0, len(keys) - _MOST_HISTOGRAMS)


def histogram(name: str, runtime: str, counts: Sequence[int]) -> Histogram:
    """Lay out a histogram: bars are shares of all elements."""
    labels = words.ulp_labels()
    total = sum(counts)
    width = (NARROW - 10.0) / len(labels)
    highest = max(counts, default=0) or 1
    bars = []
    for place, (label, number) in enumerate(zip(labels, counts, strict=False)):
        # What is there at all must be seen.
        height = max(1.5, (FOOT - 20.0) * number / highest) if number else 0.0
        x = 5.0 + place * width
        bars.append(Bar(x + 2.0, FOOT - height, width - 4.0, height, label, _brief_share(number, total)))
    return Histogram(name, runtime, total, tuple(bars))


def _brief_share(number: int, total: int) -> str:
    if not number:
        return ""
    share = 100.0 * number / total
    if share < 0.1:
        return "<0.1"
    # Rounding must not swallow the rest.
    return "100" if number == total else f"{min(share, 99.9):.1f}"


def _exponents(values: Iterable[float]) -> list[float]:
    return [math.log10(value) for value in values if 0.0 < value < math.inf]


def _relative(value: float | None, item: LayerDiff) -> float | None:
    """Return an error in units of its layer's threshold; None where nobody knows one of the two.

    Layers differ in scale by forty decades where one of them holds masked scores, so absolute errors share no axis.
    """
    if value is None or item.threshold is None:
        return None
    limit = item.threshold.value
    if limit > 0.0:
        return value / limit
    return value if value == 0.0 or math.isnan(value) else math.inf


def _values(item: LayerDiff) -> Iterable[float]:
    found = (_relative(value, item) for value in (item.total, item.inherited, item.own))
    yield from (value for value in found if value is not None)


class _LogScale:
    """Errors in units of thresholds on a logarithmic axis; zeros lie on its bottom, infinities and NaN on its top.

    What is less than a hundredth of a threshold matters to nobody, and lies on the bottom too.
    """

    def __init__(self, layers: Sequence[LayerDiff]) -> None:
        exponents = _exponents(value for item in layers for value in _values(item))
        self._high = max(1, math.ceil(max(exponents, default=0.0) + 0.05))
        self._low = max(-2, self._high - _MOST_DECADES)

    def __call__(self, value: float) -> float:
        if not value < math.inf:
            return TOP
        exponent = math.log10(value) if value > 0.0 else self._low
        share = (min(max(exponent, self._low), self._high) - self._low) / (self._high - self._low)
        return BOTTOM - share * (BOTTOM - TOP)

    def ticks(self) -> Iterable[Tick]:
        step = math.ceil((self._high - self._low) / 6)
        for exponent in range(self._high, self._low - 1, -step):
            yield Tick(self(10.0**exponent), f"{10.0**exponent:g}" if -3 < exponent < 4 else f"1e{exponent}")


def _bins(runtime: RuntimeDiff, column: dict[int, int]) -> dict[int, list[LayerDiff]]:
    bins: dict[int, list[LayerDiff]] = defaultdict(list)
    for item in sorted(runtime.layers, key=lambda item: item.index):
        bins[column[item.index]].append(item)
    return bins


def worst(items: Iterable[LayerDiff]) -> LayerDiff:
    """Return the layer at fault, else the one nearest to its threshold, else the one with the largest error."""
    return max(items, key=lambda item: (not item.passed, item.own is not None, item.severity, item.total))


def _x(column: float, columns: int) -> float:
    return LEFT + (column + 0.5) * (RIGHT - LEFT) / columns


def _depth(runtime: RuntimeDiff, bins: dict[int, list[LayerDiff]], columns: int, scale: _LogScale) -> Depth:
    """Draw the largest total and inherited error of a column and the own error of its worst layer, by thresholds."""
    series: dict[str, list[tuple[float, float] | None]] = {
        kind: [] for kind in ("total", "inherited", "threshold", "own")
    }
    marks: list[Mark] = []
    for column, items in bins.items():
        x, item = _x(column, columns), worst(items)
        values = {
            "total": _largest(_relative(layer.total, layer) for layer in items),
            "inherited": _largest(_relative(layer.inherited, layer) for layer in items),
            "own": _relative(item.own, item),
            "threshold": 1.0,
        }
        for kind, value in values.items():
            series[kind] += [None] if value is None else _points(x, scale(value))
        if not item.passed:
            error = _relative(item.own if item.own is not None else item.total, item)
            marks.append(Mark(x, scale(math.inf if error is None else error), _title(item, len(items))))
    hovers = tuple(
        Cell(_x(column - 0.5, columns), (RIGHT - LEFT) / columns, "", False, _title(worst(items), len(items)))
        for column, items in bins.items()
    )
    lines = tuple(Line(kind, _path(points)) for kind, points in series.items())
    label = _first_at_fault(runtime, bins, columns)
    # The text stays inside: it runs to the left from the right half.
    anchor = "end" if label is not None and label.at > (LEFT + RIGHT) / 2 else "start"
    shown = tuple(line for line in lines if line.path)
    return Depth(runtime.runtime, shown, tuple(marks), hovers, label, anchor, _faults(runtime))


def _largest(values: Iterable[float | None]) -> float | None:
    known = (value for value in values if value is not None)
    return max(known, key=lambda value: math.inf if math.isnan(value) else value, default=None)


def _points(x: float, y: float) -> list[tuple[float, float] | None]:
    """Return a point; on the bottom it is a dot between two gaps, for lines down and back would hide all others."""
    return [(x, y)] if y < BOTTOM else [None, (x, y), None]


def _first_at_fault(runtime: RuntimeDiff, bins: dict[int, list[LayerDiff]], columns: int) -> Tick | None:
    """Name the culprit at its place; without one, the first layer at fault."""
    culprit = runtime.culprit.layer if runtime.culprit is not None else None
    for column, items in bins.items():
        for item in items:
            if not item.passed and culprit in (None, item):
                return Tick(_x(column, columns), f"#{item.index} {words.shortened(item.operator, 30)}")
    return None


def _faults(runtime: RuntimeDiff) -> int:
    return sum(not item.passed for item in runtime.layers)


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """Return an SVG path that is broken where nothing was measured; a lonely point becomes a dot."""
    parts = []
    drawing = False
    for point in points:
        if point is not None:
            x, y = point
            parts.append(f"L{x:.1f} {y:.1f}" if drawing else f"M{x:.1f} {y:.1f}h0")
        drawing = point is not None
    return "".join(parts)


def _heat(runtime: RuntimeDiff, bins: dict[int, list[LayerDiff]]) -> Heat:
    cells = []
    for column, items in bins.items():
        item = worst(items)
        cells.append(Cell(column, 1.0, heat(item), not item.passed, _title(item, len(items))))
    return Heat(runtime.runtime, tuple(cells), _faults(runtime))


def heat(item: LayerDiff) -> str:
    """Return the colour of a layer's own error in units of its threshold."""
    if item.own is None:
        return "none"
    return str(next((place for place, bound in enumerate(HEAT_BOUNDS) if item.severity <= bound), len(HEAT_BOUNDS)))


def _title(item: LayerDiff, count: int) -> str:
    own = words.number(item.own) if item.own is not None else "not known"
    allowed = f", allowed {words.number(item.threshold.value)}" if item.threshold else ""
    of_many = f" (the worst of {count} here)" if count > 1 else ""
    name = words.shortened(item.node)
    return f"#{item.index} {name}, {item.operator}{of_many}: own error {own}{allowed}; total {words.number(item.total)}"


def _x_ticks(indices: Sequence[int], column: dict[int, int], columns: int) -> Iterable[Tick]:
    places = sorted({round(step * (len(indices) - 1) / 4) for step in range(5)})
    for place in places:
        yield Tick(_x(column[indices[place]], columns), f"#{indices[place]}")
