"""Rules of `--fail-on`: what they take, when they are violated, and what they say."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.exporter.diffing import synthetic

from hsm_export.diffing import rules
from hsm_export.diffing.results import DiffResult, Regression, RuntimeDiff
from hsm_export.errors import UsageError

FAILING = synthetic.failing()
CLASSIFIED = synthetic.result(
    RuntimeDiff("ort", "same", (synthetic.output("ort"),), classifier=synthetic.classifier(flipped=3))
)
REPEATED = RuntimeDiff("ort", "same", noise=0.0)


def violated(rule: str, result: DiffResult) -> tuple[str, ...]:
    """Return the sentences of one rule."""
    return rules.violations(rules.parse([rule]), result)


@pytest.mark.parametrize(
    ("rule", "result"),
    [
        ("output", synthetic.passing()),
        ("output", synthetic.result(RuntimeDiff("ort", "skipped"))),
        ("layer", synthetic.result(RuntimeDiff("ort", "same", layers=synthetic.layers("ort", 8)))),
        ("layer", synthetic.passing()),
        ("skipped", synthetic.passing()),
        ("regression", synthetic.passing()),
        ("nondeterminism", synthetic.result(REPEATED)),
        ("never", FAILING),
        ("flips>3", CLASSIFIED),
        ("flips>=30", FAILING),
        ("top1<0.99", FAILING),
        ("top1<99%", CLASSIFIED),
        ("kl>1e-3", FAILING),
        ("kl-max>0.1", FAILING),
        ("perplexity>1%", FAILING),
        ("perplexity>0.0016", FAILING),
        ("accuracy<0.95", CLASSIFIED),
        ("accuracy<95%", CLASSIFIED),
        ("divergence<17", FAILING),
        (
            "divergence<64",
            synthetic.result(RuntimeDiff("x", "same", language=synthetic.language(first_divergence=None))),
        ),
        ("error>0.1", FAILING),
        ("error:ort>1e-3", FAILING),
    ],
)
def test_kept(rule: str, result: DiffResult) -> None:
    assert violated(rule, result) == ()


@pytest.mark.parametrize(
    ("rule", "result", "sentence"),
    [
        ("output", FAILING, "logits of ort-fused in case 'random, 2×17' errs by 1.31e-02, 13.1× what is allowed."),
        (
            "output",
            synthetic.result(RuntimeDiff("o", "differs", tuple(synthetic.output("o", error=x) for x in (1.0, 2.0)))),
            "logits of o in case 'random, 2×17' errs by 2.00e+00, 2.0e+03× what is allowed (and 1 more output).",
        ),
        ("output", synthetic.result(RuntimeDiff("ort", "failed", reason="ort: no kernel.")), "ort failed (no kernel)."),
        ("output", synthetic.result(RuntimeDiff("ort", "differs", reason="experts")), "ort differs (experts)."),
        ("layer", FAILING,
         "/layers.7/ShiftMix_44 (ShiftMix) of ort-fused errs by 1.50e-02 itself (and 3 more layers)."),
        ("skipped", FAILING, "ort-cuda was skipped (there is no NVIDIA GPU)."),
        ("regression", FAILING, "the verdict ort-fused got worse since the baseline (and 3 more regressions)."),
        ("nondeterminism", FAILING, "repeated runs of ort-fused differ by 2.40e-07 (and 1 more runtime)."),
        ("nondeterminism", synthetic.result(replace(REPEATED, noise=math.nan)), "repeated runs of ort differ by NaN."),
        ("nondeterminism", synthetic.result(), "cannot be judged, because no run was repeated."),
        ("flips>0", FAILING, "the number of flipped predictions and expert choices of ort-fused is 29."),
        ("flips > 2", CLASSIFIED, "the number of flipped predictions and expert choices of ort is 3."),
        ("top1<0.999", FAILING, "the top-1 agreement of ort-fused is 99.85%."),
        ("top1<0.999", CLASSIFIED, "the top-1 agreement of ort is 99.17%."),
        ("kl>1e-4", FAILING, "the mean KL divergence of ort-fused is 3.40e-04."),
        ("kl>1e-9", FAILING, "the mean KL divergence of ort-fused is 3.40e-04 (and 1 more runtime)."),
        ("kl-max>1e-2", FAILING, "the largest KL divergence of ort-fused is 2.10e-02."),
        ("perplexity>0.1%", FAILING, "the increase of the perplexity of ort is 0.16% (and 1 more runtime)."),
        ("accuracy<97%", CLASSIFIED, "the accuracy of ort is 95.83%."),
        ("divergence<64", FAILING, "the first diverging token of ort-fused is 17."),
        ("divergence<=17", FAILING, "the first diverging token of ort-fused is 17."),
        ("error>1e-3", FAILING, "the largest error of ort-fused is 1.31e-02."),
        ("error:ort>1e-4", FAILING, "the largest error of ort is 3.00e-04."),
        ("error:tpu>1", FAILING, "cannot be judged, because tpu did not take part."),
        ("error:ort-cuda>1", FAILING,
         "cannot be judged, because the largest error was not measured for ort-cuda."),
        ("kl>1", synthetic.passing(),
         "cannot be judged, because the mean KL divergence was not measured for any runtime."),
        ("error>1", synthetic.hostile(), "the largest error of ort is NaN."),
    ],
)  # fmt: skip
def test_violated(rule: str, result: DiffResult, sentence: str) -> None:
    assert violated(rule, result) == (f"{rule}: {sentence}",)


def test_nothing_is_excused_by_its_neighbours() -> None:
    """A NaN is beyond every bound, and beyond every number."""
    outputs = (synthetic.output("ort", error=1.0), synthetic.output("ort", error=math.nan))
    result = synthetic.result(RuntimeDiff("ort", "differs", outputs))
    assert violated("error>100", result) == ("error>100: the largest error of ort is NaN.",)
    assert "errs by NaN, ∞ what is allowed" in violated("output", result)[0]


def test_several() -> None:
    parsed = rules.parse(["kl>1e-4, skipped", "output", "output", ""])
    assert [rule.text for rule in parsed] == ["kl>1e-4", "skipped", "output"]
    sentences = rules.violations(parsed, FAILING)
    assert [sentence.partition(":")[0] for sentence in sentences] == ["kl>1e-4", "skipped", "output"]
    assert all("\n" not in sentence and sentence.endswith(".") for sentence in sentences)


def test_default() -> None:
    assert rules.violations(rules.parse(rules.DEFAULT), synthetic.passing()) == ()
    assert len(rules.violations(rules.parse(rules.DEFAULT), FAILING)) == len(rules.DEFAULT)


def test_regressions_of_every_kind() -> None:
    found = synthetic.result(regressions=(Regression("metric", "ort accuracy", 0.9, 0.8),))
    assert violated("regression", found) == ("regression: the metric ort accuracy got worse since the baseline.",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("outputs", r"no rule 'outputs' \(did you mean 'output'\?\)"),
        ("lk>1", "no rule 'lk>1'"),
        ("perplexty>1%", r"did you mean 'perplexity'"),
        ("kl", "no rule 'kl'"),
        ("output>1", "no rule 'output>1'"),
        ("kl=1", "no rule 'kl=1'"),
        ("kl>1>2", "no rule 'kl>1>2'"),
        ("error:>1", "no rule 'error:>1'"),
        ("kl>", "no rule 'kl>'"),
        ("kl>much", "no number after its comparison"),
        ("kl>nan", "no number after its comparison"),
        ("kl>inf", "no number after its comparison"),
        ("kl>1%", "has a percentage, but the mean KL divergence is no share"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        rules.parse([text])
    assert caught.value.hint


def test_refusal_lists_the_rules() -> None:
    with pytest.raises(UsageError) as caught:
        rules.parse(["?"])
    names = (
        "output", "layer", "skipped", "regression", "nondeterminism", "never", "flips>0", "top1<0.999", "kl>1e-3",
        "perplexity>1%", "accuracy<0.97", "divergence<64", "error:ort-fused>1e-3",
    )  # fmt: skip
    for name in names:
        assert name in (caught.value.hint or "")
        rules.parse([name])


def test_never_is_alone() -> None:
    assert rules.violations(rules.parse(["never"]), FAILING) == ()
    with pytest.raises(UsageError, match="contradicts"):
        rules.parse(["never", "output"])


def test_documentation_names_every_rule() -> None:
    text = (Path(__file__).parents[3] / "docs" / "diffing.md").read_text(encoding="utf-8")
    table = text.partition("## Rules that make a build fail")[2].partition("\n## ")[0]
    for name in rules.describe().split(", "):
        assert f"`{name}`" in table, name
    # What the table gives as examples are rules.
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    examples = [name for cell in rows for name in re.findall("`([^`]+)`", cell) if name != "never"]
    assert len(rules.parse(examples)) == len(examples) >= 14
