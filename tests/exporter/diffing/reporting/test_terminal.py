"""The terminal's tables."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from tests.exporter.diffing import synthetic

from hsm_export.diffing.reporting import render
from hsm_export.diffing.results import DiffResult

RESULTS = {"empty": synthetic.result, "passing": synthetic.passing, "failing": synthetic.failing,
           "hostile": synthetic.hostile, "huge": lambda: synthetic.huge(count=400)}  # fmt: skip


def printed(result: DiffResult, *, width: int = 120, colours: bool = False) -> str:
    """Return what a terminal of a width shows."""
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, force_terminal=colours).print(render(result))
    return file.getvalue()


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("width", [80, 120, 300])
def test_fits(name: str, width: int) -> None:
    assert all(len(line) <= width for line in printed(RESULTS[name](), width=width).splitlines())


def test_everything_is_said() -> None:
    text = " ".join(printed(synthetic.failing(), width=400).split())
    for part in (
        "Worst 10 of 192 layers", "/layers.7/ShiftMix_44", "13.1×", "skipped", "warning: the file was exported from",
        "is the first node at fault", "run it alone: hsm-export diff", "bisect: ort-fused instead of ort",
        "bisect fp32 | fp16: with every node in fp16 it passes", "at token 17 of 64", "+0.159% of the reference's",
        "accuracy 95.83%, of the reference 97.22%", "verdict ort-fused: same before, differs now", "problem: the",
        "--fail-on output: logits of ort-fused", "note: cases beyond", "note: it ended early", "FAILED ort-fused",
    ):  # fmt: skip
        assert part in text, part


def test_verdict_comes_last() -> None:
    lines = printed(synthetic.passing()).strip().splitlines()
    assert lines[-2] == "PASSED Every runtime keeps the numbers of torch64: 1 runtime, 3 cases."
    assert lines[-1].startswith("next: Nothing to do.")


def test_names_do_not_steer_the_terminal() -> None:
    text = printed(synthetic.hostile(), width=300, colours=True)
    # What is left are Rich's own colours.
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", re.sub(r"\x1b\[[0-9;]*m", "", text))
    assert r"\x1b[31m" in text


def test_markup_in_names_is_text() -> None:
    named = synthetic.RuntimeDiff("[bold]x[/bold]", "failed", reason="[/] [link=x]y[/link] \\")
    assert "[bold]x[/bold]" in printed(synthetic.result(named)) and "[link=x]y" in printed(synthetic.result(named))
