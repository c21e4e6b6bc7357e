"""Geometry of the charts: nothing at fault is hidden, and what is no number has a place too."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from tests.exporter.diffing import synthetic

from hsm_export.diffing.reporting import charts
from hsm_export.diffing.results import LayerDiff, RuntimeDiff


def drawn(*layers: LayerDiff) -> charts.Layers:
    """Return the drawing of one runtime's layers."""
    found = charts.layers(synthetic.result(RuntimeDiff("ort", "same", layers=layers)))
    assert found is not None
    return found


def test_none_without_layers() -> None:
    assert charts.layers(synthetic.passing()) is None


def test_neighbours_share_a_column_and_the_worst_is_shown() -> None:
    count = 1000
    layers = synthetic.layers("ort", count, faults=(503,))
    found = drawn(*layers)
    assert (found.merged, found.columns, found.first, found.last) == (5, 200, 0, 999)
    (depth,), (heat,) = found.depths, found.heats
    assert [mark.title for mark in depth.marks] == [cell.title for cell in heat.cells if cell.fault]
    assert len(depth.marks) == 1 and "#503" in depth.marks[0].title and "the worst of 5 here" in depth.marks[0].title
    assert depth.label is not None and depth.label.label == "#503 CausalTaylorShift"
    assert [cell.at for cell in heat.cells if cell.fault] == [100]


def test_runtimes_share_the_axes() -> None:
    """A runtime that shows few tensors has gaps, not another scale."""
    many, few = synthetic.layers("ort", 40), (synthetic.layer("ort-fused", 39, own=1e-5, total=1e-5),)
    found = charts.layers(
        synthetic.result(RuntimeDiff("ort", "same", layers=many), RuntimeDiff("ort-fused", "same", layers=few))
    )
    assert found is not None
    assert found.heats[1].cells[0].at == 39 == found.heats[0].cells[-1].at
    own = next(line.path for line in found.depths[1].lines if line.kind == "own")
    assert own.startswith("M40") and own.endswith("h0")


def test_no_layer_is_drawn_outside() -> None:
    layers = [synthetic.layer("ort", place, own=value, total=value) for place, value in enumerate((1e-9, 1.0, 1e30))]
    lines = drawn(*layers).depths[0].lines
    heights = [float(y) for line in lines for y in re.findall(r"[ML][\d.]+ ([\d.]+)", line.path)]
    assert heights and all(charts.TOP <= height <= charts.BOTTOM for height in heights)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite_lies_on_top(value: float) -> None:
    found = drawn(synthetic.layer("ort", 0, own=value, total=value), synthetic.layer("ort", 1, own=1e-5, total=1e-5))
    assert [mark.y for mark in found.depths[0].marks] == [charts.TOP]
    assert found.heats[0].cells[0].heat == "6" and found.heats[0].faults == 1


def test_circle_that_stands_for_several_names_the_culprit() -> None:
    """A module and a part of it end at the same node; the heading counts both, and the label is the culprit's."""
    whole, part = (synthetic.layer("onnx64", 7, own=own, total=own) for own in (2.0, 1.0))
    part = replace(part, operator="Linear", tensor="part")
    runtime = RuntimeDiff("onnx64", "differs", layers=(whole, part), culprit=synthetic.culprit(part))
    found = charts.layers(synthetic.result(runtime))
    assert found is not None
    (depth,) = found.depths
    assert (depth.faults, len(depth.marks)) == (2, 1) == (found.heats[0].faults, 1)
    assert depth.label is not None and depth.label.label == "#7 Linear"


def test_noise_far_below_every_threshold_does_not_stretch_the_axis() -> None:
    layers = [synthetic.layer("ort", place, own=own, total=1e-4) for place, own in enumerate((1e-5, 1e-14, 1e-5))]
    found = drawn(*layers)
    assert [tick.label for tick in found.y_ticks] == ["10", "1", "0.1", "0.01"]
    own = next(line.path for line in found.depths[0].lines if line.kind == "own")
    assert own.count("M") == 3 and f" {charts.BOTTOM:.1f}h0" in own


def test_layers_of_all_scales_share_the_axis() -> None:
    """Masked scores of -3.4e38 err by 1e30, others by 1e-6: what counts is how near each is to its threshold."""
    small = synthetic.layer("ort", 0, own=1e-6, total=1e-6)
    assert small.threshold is not None
    wide = replace(small.threshold, value=1e34, floor=1e34)
    large = replace(small, index=1, own=1e30, total=1e30, threshold=wide)
    found = drawn(small, large)
    assert [tick.label for tick in found.y_ticks] == ["10", "1", "0.1", "0.01"]


def test_only_zeros() -> None:
    (depth,) = drawn(synthetic.layer("ort", 0, own=0.0, total=0.0)).depths
    assert {line.kind for line in depth.lines} == {"total", "inherited", "own", "threshold"}
    assert all(line.path.endswith(f"{charts.BOTTOM:.1f}h0") for line in depth.lines if line.kind != "threshold")


def test_nothing_is_drawn_through_what_was_not_measured() -> None:
    shown = [synthetic.layer("ort", place, own=None if place == 2 else 1e-5, total=1e-4) for place in range(5)]
    (depth,) = drawn(*shown).depths
    paths = {line.kind: line.path for line in depth.lines}
    assert paths["own"].count("M") == 2 and paths["threshold"].count("M") == 1


@pytest.mark.parametrize(
    ("own", "heat"), [(0.0, "0"), (2e-5, "0"), (3e-5, "1"), (2e-4, "3"), (2.1e-4, "4"), (1e-3, "5"), (1.0, "6")]
)
def test_heat(own: float, heat: str) -> None:
    assert charts.heat(synthetic.layer("ort", 0, own=own, total=own)) == heat


def test_own_error_that_is_not_known_has_a_colour() -> None:
    assert charts.heat(synthetic.layer("ort", 0, own=None, total=1.0)) == "none"


def test_histogram() -> None:
    found = charts.histogram("logits", "ort", [999_999, 1, *[0] * 10])
    assert found.elements == 1_000_000
    # Rounding swallows nothing: 100 % is all, and what is there is seen.
    assert [bar.share for bar in found.bars[:3]] == ["99.9", "<0.1", ""]
    assert found.bars[1].height > 1 and found.bars[2].height == 0
    assert charts.histogram("logits", "ort", [7, *[0] * 11]).bars[0].share == "100"


def test_histograms_add_up_cases_and_are_not_too_many() -> None:
    case = synthetic.output("ort")
    other = replace(case, case="other")
    (found,), left_out = charts.histograms(synthetic.result(RuntimeDiff("ort", "same", (case, other))))
    assert found.elements == 2 * sum(case.errors.ulps) and left_out == 0
    shown, left_out = charts.histograms(synthetic.huge(count=1))
    assert (len(shown), left_out) == (24, 6 * 64 - 24)
