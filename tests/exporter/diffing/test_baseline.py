"""What counts as worse than a baseline, and what does not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.exporter.diffing import synthetic

from hsm_export.comparison.predictions import ClassifierMetrics, LanguageMetrics
from hsm_export.diffing.baseline import check, compare
from hsm_export.diffing.reporting import read_json, write_json
from hsm_export.diffing.results import DiffResult, Regression, RuntimeDiff
from hsm_export.errors import BadInputError

# The floor of a synthetic output's threshold is a quarter of it.
ALLOWED, FLOOR = 1e-3, 2.5e-4


def one(error: float = 4e-4, *, verdict: str = "same", **changes: Any) -> DiffResult:
    """Return a result of one runtime and one output."""
    runtime = RuntimeDiff("ort", verdict, (synthetic.output("ort", error=error, allowed=ALLOWED),))
    return synthetic.result(replace(runtime, **changes))


def layered(own: float | None) -> DiffResult:
    """Return a result of one runtime and one layer, whose threshold is 2e-4 and its floor 5e-5."""
    return replace(one(layers=(synthetic.layer("ort", 0, own=own, total=1e-3),)), layer_case=synthetic.CASE)


@pytest.mark.parametrize("result", [synthetic.passing(), synthetic.failing(), synthetic.hostile()])
def test_nothing_is_worse_than_itself(result: DiffResult) -> None:
    assert compare(result, result) == ()


def test_baseline_comes_from_a_file(tmp_path: Path) -> None:
    write_json(synthetic.failing(), tmp_path / "old.json")
    assert compare(synthetic.failing(), read_json(tmp_path / "old.json")) == ()


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (4e-4, 5.9e-4, False),  # grown by less than half
        (4e-4, 6.1e-4, True),
        (1e-6, 2.4e-4, False),  # within the rounding that is always allowed
        (1e-6, 2.6e-4, True),
        (0.0, 2.6e-4, True),
        (6e-4, 1e-6, False),
        (9e-4, 1.1e-3, True),  # grown by little, but beyond the threshold now
        (1.1e-3, 1.2e-3, False),
        (4e-4, math.nan, True),
        (math.nan, math.nan, False),
        (math.inf, math.inf, False),
        (4e-4, math.inf, True),
    ],
)
def test_outputs(before: float, after: float, worse: bool) -> None:
    found = compare(one(after), one(before))
    assert repr(found) == repr((Regression("output", "ort logits", before, after),) if worse else ())


def test_worst_case_of_an_output_is_reported() -> None:
    def cases(*errors: float) -> DiffResult:
        outputs = tuple(synthetic.output("ort", error=error, case=str(place)) for place, error in enumerate(errors))
        return synthetic.result(RuntimeDiff("ort", "same", outputs))

    found = compare(cases(8e-4, 9e-4, 9e-4), cases(4e-4, 3e-4, 8e-4))
    assert found == (Regression("output", "ort logits", 3e-4, 9e-4),)


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (6e-5, 8e-5, False), (6e-5, 1e-4, True), (1e-6, 4e-5, False), (1.9e-4, 2.1e-4, True), (None, 1e-3, False),
        (1e-6, None, False),
    ],
)  # fmt: skip
def test_layers(before: float | None, after: float | None, worse: bool) -> None:
    found = compare(layered(after), layered(before))
    assert [item.what for item in found] == (["layer"] if worse else [])
    assert not worse or found[0].name == "ort /layers.0/LayerNormalization_0"


def test_layers_of_another_case_are_not_compared() -> None:
    old = replace(layered(1e-6), layer_case="another")
    assert compare(layered(1e-3), old) == ()
    assert "the baseline's layers are of another case and are not compared" in check(layered(1e-3), old)


@pytest.mark.parametrize(
    ("before", "after", "ranks"),
    [
        ("same", "differs", (0, 1)), ("same", "failed", (0, 2)), ("same", "skipped", (0, 3)), ("same", None, (0, 4)),
        ("differs", "skipped", (1, 3)), ("failed", None, (2, 4)), ("skipped", None, None), ("differs", "same", None),
        ("skipped", "failed", None),
    ],
)  # fmt: skip
def test_verdicts(before: str, after: str | None, ranks: tuple[int, int] | None) -> None:
    """A runtime that vanished has got worse, one that never ran has not."""
    other = RuntimeDiff("onnx-reference", "same", (synthetic.output("onnx-reference"),))
    old = synthetic.result(RuntimeDiff("ort", before), other)
    new = synthetic.result(*([RuntimeDiff("ort", after)] if after else []), other)
    assert compare(new, old) == ((Regression("verdict", "ort", *ranks),) if ranks else ())


def test_new_runtimes_are_no_regression() -> None:
    new = RuntimeDiff("new", "differs", (synthetic.output("new", error=1.0),))
    assert compare(synthetic.result(*one().runtimes, new), one()) == ()


def _language(**changes: object) -> LanguageMetrics:
    quiet: dict[str, object] = {"kl": 1e-7, "top1_agreement": 1.0, "first_divergence": None, "diverging": None}
    return synthetic.language(**(quiet | {"perplexity": 7.4021} | changes))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"kl": FLOOR**2 / 2 * 0.9}, None),  # logits that are off by the floor may do that
        ({"kl": FLOOR**2 / 2 * 5}, "KL divergence"),
        ({"kl": math.nan}, "KL divergence"),
        ({"top1_agreement": 2047 / 2048}, None),  # one near tie
        ({"top1_agreement": 2046 / 2048}, "top-1 disagreement"),
        ({"perplexity": 7.4021 * (1 + FLOOR)}, None),
        ({"perplexity": 7.4021 * (1 + 3 * FLOOR)}, "perplexity increase"),
        ({"perplexity": 7.0}, None),
        ({"perplexity": None}, None),
        ({"first_divergence": 17, "diverging": (1, 2, 2 * FLOOR)}, None),  # a near tie too
        ({"first_divergence": 17, "diverging": (1, 2, 3 * FLOOR)}, "first diverging token"),
        ({"first_divergence": 17}, "first diverging token"),
    ],
)
def test_language(changes: dict[str, object], name: str | None) -> None:
    found = compare(one(language=_language(**changes)), one(language=_language()))
    assert [item.name for item in found] == ([f"ort {name}"] if name else [])
    assert all(item.what == "metric" for item in found)


def test_divergence_that_comes_later_is_better() -> None:
    parts = {"diverging": (1, 2, 1.0)}
    early, late = (one(language=_language(first_divergence=at, **parts)) for at in (17, 40))
    assert compare(late, early) == ()
    assert [item.name for item in compare(early, late)] == ["ort first diverging token"]
    # Longer texts have more room to part.
    short = one(language=_language(greedy_tokens=32))
    assert compare(late, short) == ()


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        (ClassifierMetrics(360, 0, ()), ClassifierMetrics(360, 1, ()), []),
        (ClassifierMetrics(360, 0, ()), ClassifierMetrics(360, 2, ()), ["flipped predictions"]),
        (ClassifierMetrics(360, 4, ()), ClassifierMetrics(360, 6, ()), []),
        (ClassifierMetrics(100, 0, (), 0.5, 0.5), ClassifierMetrics(100, 1, (), 0.49, 0.5), []),
        (ClassifierMetrics(100, 0, (), 0.5, 0.5), ClassifierMetrics(100, 1, (), 0.48, 0.5), ["accuracy"]),
        (ClassifierMetrics(100, 0, (), 0.5, 0.5), ClassifierMetrics(100, 1, (), 0.9, 0.5), []),
        (ClassifierMetrics(100, 0, ()), ClassifierMetrics(100, 1, (), 0.1, 0.5), []),
    ],
)
def test_classifiers(before: ClassifierMetrics, after: ClassifierMetrics, names: list[str]) -> None:
    found = compare(one(classifier=after), one(classifier=before))
    assert [item.name for item in found] == [f"ort {name}" for name in names]


def test_experts() -> None:
    assert compare(one(flips=1, choices=100), one(flips=0, choices=100)) == ()
    found = compare(one(flips=5, choices=100), one(flips=2, choices=100))
    assert found == (Regression("metric", "ort flipped expert choices", 2.0, 5.0),)


def test_order() -> None:
    new, old = synthetic.failing(), synthetic.failing()
    better = replace(old.runtimes[1], verdict="same", outputs=(synthetic.output("ort-fused"),), flips=0)
    better = replace(better, layers=synthetic.layers("ort-fused", 96, seed=2), language=_language())
    found = compare(new, replace(old, runtimes=(old.runtimes[0], better, *old.runtimes[2:])))
    kinds = [item.what for item in found]
    assert kinds == sorted(kinds, key=("verdict", "output", "layer", "metric").index) and set(kinds) == {
        "verdict", "output", "layer", "metric",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp32"}, "the baseline is of another precision: fp32 instead of fp16"),
        ({"task": "classification"}, "the baseline is of another task: classification instead of language_model"),
        ({"task": ""}, "the baseline is of another task: no task"),
        (
            {"runtimes": (RuntimeDiff("ort", "same", (synthetic.output("ort", "classes"),)),)},
            "the baseline is of another model: it has no output logits",
        ),
    ],
)
def test_reports_of_something_else_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        compare(one(), replace(one(), **changes))
    assert caught.value.hint


def test_notes() -> None:
    """What makes two reports hard to compare is said, and does not stop the comparison."""
    place = synthetic.environment()
    old = replace(
        one(),
        model="elsewhere/old.onnx",
        reference="onnx64",
        cases=("others",),
        layer_case="y",
        complete=False,
        environment=replace(place, versions=place.versions | {"onnxruntime": "1.30.0"}),
    )
    assert check(replace(one(), layer_case="x"), old) == (
        "the baseline is of a file called old.onnx",
        "the baseline's reference was onnx64, not torch64",
        "the baseline has other cases; only verdicts and metrics are compared with it",
        "the baseline's layers are of another case and are not compared",
        "the baseline ended early",
        "versions changed since the baseline: onnxruntime 1.30.0 → 1.31.1",
    )
    assert check(one(), one()) == ()
