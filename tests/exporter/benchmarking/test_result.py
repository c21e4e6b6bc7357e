"""Summaries of measurements: quartiles, and where one runtime overtakes another."""

from __future__ import annotations

import pytest

from hsm_export.benchmarking.result import Measurement, Spread, crossovers


def _measurement(runtime: str, length: int, seconds: float) -> Measurement:
    return Measurement(runtime, 1, length, Spread.of([seconds]), length / seconds, 0, 0)


def test_spread_has_the_quartiles() -> None:
    spread = Spread.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (spread.minimum, spread.q1, spread.median, spread.q3, spread.repetitions) == (1.0, 2.0, 3.0, 4.0, 5)
    assert Spread.of([7.0]).q3 == 7.0


def test_crossover_lies_where_the_lines_meet_on_logarithmic_axes() -> None:
    # a takes n, b takes n²/200: they meet at 200.
    found = crossovers(
        [_measurement("a", n, float(n)) for n in (64, 128, 512)]
        + [_measurement("b", n, n * n / 200) for n in (64, 128, 512)]
    )
    assert [(item.quicker_below, item.quicker_above) for item in found] == [("b", "a")]
    assert found[0].length == pytest.approx(200)


def test_no_crossover_where_one_is_always_quicker() -> None:
    assert crossovers([_measurement(name, n, n * f) for name, f in (("a", 1.0), ("b", 2.0)) for n in (8, 16)]) == ()


def test_chance_makes_no_crossover() -> None:
    def within(runtime: str, length: int, median: float) -> Measurement:
        return Measurement(runtime, 1, length, Spread(median, 0.9 * median, 1.1 * median, 0.85 * median, 15), 1.0, 1, 1)

    noise = [within("a", 8, 1.0), within("b", 8, 1.02), within("a", 16, 2.02), within("b", 16, 2.0)]
    assert crossovers(noise) == ()
    clear = [within("a", 4, 1.0), within("b", 4, 2.0), within("a", 64, 9.0), within("b", 64, 4.5)]
    (found,) = crossovers(clear + noise)
    assert 4 < found.length < 64 and (found.quicker_below, found.quicker_above) == ("a", "b")
