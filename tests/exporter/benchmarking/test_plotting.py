"""The plot of a benchmark names every runtime and every crossing, and takes runs that need no memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_export.benchmarking.plotting import plot
from hsm_export.benchmarking.result import BenchResult, Measurement, Spread, crossovers
from hsm_export.errors import UsageError

pytest.importorskip("matplotlib")
LENGTHS = (32, 128, 512)


def result(lengths: tuple[int, ...]) -> BenchResult:
    seconds = {"a": lambda n: n * 1e-5, "b": lambda n: n * n * 1e-7}
    items = [
        Measurement(name, 1, n, Spread.of([time(n)]), n / time(n), 2**20, 0)
        for n in lengths
        for name, time in seconds.items()
    ]
    return BenchResult(
        "m.onnx", None, "fp32", "onnx64", 1, lengths, 1, (), tuple(items), crossovers(items), {}, "", {}, (0, 0)
    )


def test_crossings_and_runtimes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # letters stay letters
    plot(result(LENGTHS), tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    for words in (">a<", ">b<", "b | a: 100", "m.onnx, fp32, batch 1, 1 thread<"):
        assert words in text


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to draw"):
        plot(result(()), tmp_path / "p.png")
    assert not list(tmp_path.iterdir())
