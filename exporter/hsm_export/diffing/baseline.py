"""What got worse since an older report.

An error counts as grown when it is more than 1.5 times the old one and beyond the rounding that is always allowed: the
threshold's floor, 4 eps max|reference|. A verdict that changed for the worse always counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..comparison.predictions import LanguageMetrics
from ..comparison.threshold import Threshold
from ..errors import BadInputError
from .reporting.words import file_name, perplexity_change
from .results import DiffResult, Regression, RuntimeDiff

# Another seed, thread count or order of sums moves a largest error by about half; a defect moves it by far more.
_GROWTH = 1.5
_RANK = {"same": 0, "differs": 1, "failed": 2, "skipped": 3, "not judged": 5}
_NOT_THERE = 4


def compare(result: DiffResult, old: DiffResult) -> tuple[Regression, ...]:
    """Return what got worse: verdicts first, then outputs, layers and metrics, each with its worst growth first.

    Regressions of a verdict hold its rank before and after: 0 same, 1 differs, 2 failed, 3 skipped, 4 not there, 5 not
    judged.

    Raises:
        BadInputError: the reports are of different precisions or tasks, or share no output.
    """
    check(result, old)
    before = {item.runtime: item for item in old.runtimes}
    pairs = [(before[item.runtime], item) for item in result.runtimes if item.runtime in before]
    regressions = list(_verdicts(result, old))
    for find in (_outputs, _metrics):
        regressions += _worst_first(found for pair in pairs for found in find(*pair))
    if result.layer_case == old.layer_case:
        regressions += _worst_first(found for pair in pairs for found in _layers(*pair))
    order = ("verdict", "output", "layer", "metric")
    return tuple(sorted(regressions, key=lambda item: order.index(item.what)))


def check(result: DiffResult, old: DiffResult) -> tuple[str, ...]:
    """Return notes on what makes two reports hard to compare.

    Raises:
        BadInputError: they are of different precisions or tasks, or share no output.
    """
    for what, new_value, old_value in (
        ("precision", result.precision, old.precision),
        ("task", result.task or "no task", old.task or "no task"),
    ):
        if new_value != old_value:
            raise BadInputError(
                f"the baseline is of another {what}: {old_value} instead of {new_value}",
                "name a report of the same model in the same precision",
            )
    names, old_names = _output_names(result), _output_names(old)
    if names and old_names and not names & old_names:
        raise BadInputError(
            f"the baseline is of another model: it has no output {', '.join(sorted(names))}",
            "name a report of the same model in the same precision",
        )
    return tuple(_notes(result, old))


def _notes(result: DiffResult, old: DiffResult) -> Iterator[str]:
    if file_name(result.model) != file_name(old.model):
        yield f"the baseline is of a file called {file_name(old.model)}"
    if result.reference != old.reference:
        yield f"the baseline's reference was {old.reference}, not {result.reference}"
    if not set(result.cases) & set(old.cases):
        yield "the baseline has other cases; only verdicts and metrics are compared with it"
    if old.layer_case and result.layer_case and result.layer_case != old.layer_case:
        yield "the baseline's layers are of another case and are not compared"
    if not old.complete:
        yield "the baseline ended early"
    changed = [
        f"{name} {old.environment.versions[name]} → {version}"
        for name, version in result.environment.versions.items()
        if old.environment.versions.get(name, version) != version
    ]
    if changed:
        yield f"versions changed since the baseline: {', '.join(changed)}"


def _output_names(result: DiffResult) -> set[str]:
    return {item.output for runtime in result.runtimes for item in runtime.outputs}


def _verdicts(result: DiffResult, old: DiffResult) -> Iterator[Regression]:
    ranks = {item.runtime: _RANK[item.verdict] for item in result.runtimes}
    for item in old.runtimes:
        before, after = _RANK[item.verdict], ranks.get(item.runtime, _NOT_THERE)
        # One that was skipped before and is not there now takes nothing away.
        if after > before and before != _RANK["skipped"]:
            yield Regression("verdict", item.runtime, float(before), float(after))


def _grown(before: float, after: float, floor: float) -> bool:
    if math.isnan(after):
        return not math.isnan(before)
    return after > _GROWTH * before and after > floor


def _worst_first(found: Iterator[Regression]) -> list[Regression]:
    """Keep the worst case of every name, the largest growth first."""
    worst: dict[str, Regression] = {}
    for item in sorted(found, key=_growth, reverse=True):
        worst.setdefault(item.name, item)
    return list(worst.values())


def _growth(item: Regression) -> float:
    if math.isnan(item.after) or item.before <= 0.0:
        return math.inf
    return item.after / item.before


def _outputs(old: RuntimeDiff, new: RuntimeDiff) -> Iterator[Regression]:
    before = {(item.output, item.case): item for item in old.outputs}
    for item in new.outputs:
        earlier = before.get((item.output, item.case))
        if earlier is None:
            continue
        worse = earlier.passed and not item.passed
        if worse or _grown(earlier.errors.max_abs, item.errors.max_abs, item.threshold.floor):
            name = f"{item.runtime} {item.output}"
            yield Regression("output", name, earlier.errors.max_abs, item.errors.max_abs)


def _layers(old: RuntimeDiff, new: RuntimeDiff) -> Iterator[Regression]:
    before = {(item.node, item.tensor): item for item in old.layers}
    for item in new.layers:
        earlier = before.get((item.node, item.tensor))
        if earlier is None or earlier.own is None or item.own is None:
            continue
        worse = earlier.passed and not item.passed
        if worse or _grown(earlier.own, item.own, _floor(item.threshold)):
            yield Regression("layer", f"{item.runtime} {item.node}", earlier.own, item.own)


def _floor(threshold: Threshold | None) -> float:
    return threshold.floor if threshold is not None else math.inf


def _metrics(old: RuntimeDiff, new: RuntimeDiff) -> Iterator[Regression]:
    """Compare metrics; shares must change by more than one position or example, which may be a near tie."""
    for name, before, after, floor in _measured(old, new):
        if _grown(before, after, floor):
            yield Regression("metric", f"{new.runtime} {name}", before, after)
    if old.classifier is not None and new.classifier is not None:
        had, has = old.classifier.accuracy, new.classifier.accuracy
        # Not a matter of ratios: whatever is lost beyond one example counts.
        if had is not None and has is not None and had - has > 1.5 / max(new.classifier.examples, 1):
            yield Regression("metric", f"{new.runtime} accuracy", had, has)
    if old.language is not None and new.language is not None and _diverges_earlier(old.language, new):
        first = old.language.first_divergence
        at = math.inf if first is None else float(first)
        yield Regression(
            "metric", f"{new.runtime} first diverging token", at, float(new.language.first_divergence or 0)
        )


def _measured(old: RuntimeDiff, new: RuntimeDiff) -> Iterator[tuple[str, float, float, float]]:
    """Yield name, old value, new value and the noise floor of what is better when it is small."""
    logit = max((item.threshold.floor for item in new.outputs), default=0.0)
    if old.language is not None and new.language is not None:
        # Logits off by at most d change the KL divergence by at most d²/2, and log-probabilities by at most 2 d.
        yield "KL divergence", old.language.kl, new.language.kl, logit**2 / 2
        one = 1.0 / max(new.language.tokens, 1)
        yield "top-1 disagreement", 1 - old.language.top1_agreement, 1 - new.language.top1_agreement, 1.5 * one
        before, after = perplexity_change(old.language), perplexity_change(new.language)
        if before is not None and after is not None:
            yield "perplexity increase", max(before, 0.0), after, math.expm1(min(2 * logit, 1.0))
    if old.classifier is not None and new.classifier is not None:
        yield "flipped predictions", float(old.classifier.flipped), float(new.classifier.flipped), 1.0
    if old.choices and new.choices:
        yield "flipped expert choices", float(old.flips), float(new.flips), 1.0


def _diverges_earlier(old: LanguageMetrics, new: RuntimeDiff) -> bool:
    """Whether greedy text parts earlier than before, at a token that is no near tie."""
    assert new.language is not None
    first = new.language.first_divergence
    if first is None or not old.greedy_tokens or (old.first_divergence is not None and old.first_divergence <= first):
        return False
    if old.first_divergence is None and first >= old.greedy_tokens:
        return False
    logit = max((item.threshold.floor for item in new.outputs), default=0.0)
    return new.language.diverging is None or new.language.diverging[2] > 2 * logit
