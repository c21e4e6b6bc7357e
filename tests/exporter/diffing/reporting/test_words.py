"""Numbers, names and verdicts in words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.exporter.diffing import synthetic

from hsm_export.diffing.reporting import words
from hsm_export.diffing.results import DiffResult, RuntimeDiff


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (1.234567e-4, "1.23e-04"), (math.nan, "NaN"), (math.inf, "∞"), (-math.inf, "−∞")],
)
def test_number(value: float | None, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1e-9, "<0.01×"), (0.5, "0.50×"), (0.996, "<1.00×"), (1.0, "1.00×"), (1.0001, ">1.00×"),
        (13.1, "13.1×"), (999.4, "999×"), (1e5, "1.0e+05×"), (math.inf, "∞"), (math.nan, "NaN"),
    ],
)  # fmt: skip
def test_times(value: float, text: str) -> None:
    """Just beyond the threshold and just within do not read the same."""
    assert words.times(value) == text


@pytest.mark.parametrize(("value", "text"), [(1.0, "100.00%"), (0.999999, "99.999900%"), (0.5, "50.00%"), (None, "–")])
def test_share(value: float | None, text: str) -> None:
    assert words.share(value) == text


def test_visible() -> None:
    assert words.visible("/layers.0/MatMul é 层") == "/layers.0/MatMul é 层"
    assert words.visible("a\nb\x1b[2J\u202e\u200b\ud800\x7f") == r"a\nb\x1b[2J\u202e\u200b\ud800\x7f"


def test_shortened() -> None:
    assert words.shortened("x" * 120) == "x" * 120
    short = words.shortened("a" * 500 + "end")
    assert len(short) == 120 and short.endswith("end") and "…" in short


def test_shapes() -> None:
    assert words.shapes({"tokens": (2, 17), "scale": ()}) == "tokens 2×17, scale scalar"


@pytest.mark.parametrize(
    ("result", "sentence", "step"),
    [
        (synthetic.passing(), "Every runtime keeps the numbers of torch64: 1 runtime, 3 cases.", "Nothing to do."),
        (replace(synthetic.passing(), complete=False), "Every runtime", "It ended early"),
        (synthetic.result(), "Nothing was compared", "Install a runtime"),
        (
            synthetic.result(RuntimeDiff("ort", "same"), RuntimeDiff("ort-cuda", "skipped", reason="no GPU")),
            "What was compared keeps the numbers of torch64: 1 runtime, 3 cases (1 skipped).",
            "Nothing to do.",
        ),
        (
            synthetic.result(RuntimeDiff("ort", "differs", reason="too far"), RuntimeDiff("x", "differs")),
            "ort differs (and 1 more runtime): too far",
            "Repeat it with --layers",
        ),
        (
            synthetic.result(RuntimeDiff("ort", "failed", reason="no kernel")),
            "ort failed: no kernel",
            "Read the runtime",
        ),
        (
            synthetic.result(RuntimeDiff("ort", "same"), passed=False, violated=("kl>1: too much.", "x")),
            "A rule is violated (and 1 more): kl>1: too much.",
            "Change the model, or the rule.",
        ),
        (synthetic.result(passed=False, problems=("no file",)), "no file", "Put this right first"),
        (
            synthetic.failing(),
            "ort-fused departs from torch64: /layers.7/ShiftMix_44 (ShiftMix)",
            "Run that node alone",
        ),
    ],
)
def test_verdict(result: DiffResult, sentence: str, step: str) -> None:
    verdict = words.verdict(result)
    assert verdict.passed == result.passed
    assert verdict.sentence.startswith(sentence)
    assert verdict.next_step.startswith(step)


def test_next_step_without_a_culprit() -> None:
    """What helps depends on what was tried already."""
    differs = synthetic.result(RuntimeDiff("ort", "differs", reason="too far"))
    layered = replace(differs, layer_case=synthetic.CASE)
    assert (
        words.verdict(layered).next_step == "No node is at fault by itself: --bisect finds the nodes that are together."
    )
    bisected = replace(layered, bisections=synthetic.failing().bisections)
    step = words.verdict(bisected, lambda text: f"<{text}>").next_step
    assert step == "Look at what bisection blames: </layers.7/ShiftMix_44> (<ShiftMix>)."


def test_file_that_is_itself_at_fault() -> None:
    layer = synthetic.layer("onnx64", 3, own=1.0, total=1.0)
    guilty = RuntimeDiff("onnx64", "differs", culprit=synthetic.culprit(layer, repro=False))
    verdict = words.verdict(synthetic.result(synthetic.failing().runtimes[1], guilty))
    assert verdict.sentence.startswith("The file itself departs from torch64, whatever runs it: /layers.0/Add_3 (Add)")
    assert verdict.command == "" and "inputs and attributes" in verdict.next_step


def test_divergence() -> None:
    assert words.divergence(synthetic.language(greedy_tokens=0)) == "–"
    assert words.divergence(synthetic.language(first_divergence=None)) == "nowhere in 64 tokens"
    assert words.divergence(synthetic.language(diverging=None)) == "at token 17 of 64"


def test_perplexity_change() -> None:
    assert words.perplexity_change(synthetic.language(perplexity=None)) is None
    assert words.perplexity_change(synthetic.language(reference_perplexity=0.0)) is None
    change = words.perplexity_change(synthetic.language(perplexity=1.01, reference_perplexity=1.0))
    assert change == pytest.approx(0.01)
