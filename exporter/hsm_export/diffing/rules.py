"""Rules of `--fail-on`: what of a diff makes a build fail."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..comparison.result import ComparedOutput
from ..errors import UsageError
from .reporting.words import count, number, perplexity_change, reason, share, times
from .results import DiffResult, RuntimeDiff

DEFAULT = ("output", "layer")

_COMPARISON = re.compile(r"(?P<name>[^<>=]+?)\s*(?P<comparison><=|>=|<|>)\s*(?P<bound>[^<>=\s]+)")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Rule:
    """One rule: a condition without a number, or a measure and a bound.

    Attributes:
        text: as it was written.
        name: "output", "kl", "error", ….
        runtime: the only runtime that it is about; None for all.
        comparison, bound: when the measure breaks the rule; "" and 0 for a condition.
    """

    text: str
    name: str
    runtime: str | None = None
    comparison: str = ""
    bound: float = 0.0


@dataclass(frozen=True)
class _Measure:
    """A number of a runtime that rules may bound.

    Attributes:
        words: what it is, in an error.
        of: takes it from a runtime; None where it was not measured.
        show: writes it.
        percent: whether a bound may be a percentage.
        example: a rule that uses it.
    """

    words: str
    of: Callable[[RuntimeDiff], float | None]
    show: Callable[[float], str]
    example: str
    percent: bool = False


def parse(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Parse rules, each of them maybe several with commas between.

    Raises:
        UsageError: a rule is unknown, has no right bound, or `never` is not alone.
    """
    words = [word.strip() for text in texts for word in text.split(",")]
    rules = tuple(dict.fromkeys(_parse(word) for word in words if word))
    if len(rules) > 1 and any(rule.name == "never" for rule in rules):
        raise UsageError("the rule 'never' contradicts every other rule", "give it alone, or leave it out")
    return rules


def violations(rules: Iterable[Rule], result: DiffResult) -> tuple[str, ...]:
    """Return one sentence for each rule that a result violates.

    A rule whose measure nobody measured is violated too: a gate that cannot be judged must not stand open.
    """
    found = [_measured(rule, result) if rule.comparison else _CONDITIONS[rule.name](result) for rule in rules]
    return tuple(f"{rule.text}: {sentence}" for rule, sentence in zip(rules, found, strict=True) if sentence)


def describe() -> str:
    """Return the list of rules, as hints and help texts show it."""
    return ", ".join((*_CONDITIONS, *(measure.example for measure in _MEASURES.values())))


def _parse(text: str) -> Rule:
    if text in _CONDITIONS:
        return Rule(text, text)
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise _unknown(text)
    name, colon, runtime = match["name"].partition(":")
    if name not in _MEASURES or (colon and not runtime):
        raise _unknown(text)
    bound = _bound(text, _MEASURES[name], match["bound"])
    return Rule(text, name, runtime or None, match["comparison"], bound)


def _bound(text: str, measure: _Measure, bound: str) -> float:
    digits = bound.removesuffix("%")
    if digits != bound and not measure.percent:
        raise UsageError(f"the rule {text!r} has a percentage, but {measure.words} is no share", measure.example)
    try:
        value = float(digits)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"the rule {text!r} has no number after its comparison", f"write it as {measure.example}")
    return value / 100.0 if digits != bound else value


def _unknown(text: str) -> UsageError:
    names = (*_CONDITIONS, *_MEASURES)
    near = difflib.get_close_matches(re.split(r"[<>=:]", text)[0].strip(), names, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    return UsageError(f"there is no rule {text!r}{guess}", f"the rules are {describe()}")


def _measured(rule: Rule, result: DiffResult) -> str:
    """Return what a rule with a bound has to say: about the runtime that is furthest beyond, or that it knows none."""
    measure = _MEASURES[rule.name]
    names = [item.runtime for item in result.runtimes]
    if rule.runtime is not None and rule.runtime not in names:
        return f"cannot be judged, because {rule.runtime} did not take part."
    runtimes = [item for item in result.runtimes if rule.runtime in (None, item.runtime)]
    values = [(value, item.runtime) for item in runtimes if (value := measure.of(item)) is not None]
    if not values:
        whose = rule.runtime or "any runtime"
        return f"cannot be judged, because {measure.words} was not measured for {whose}."
    broken = [item for item in values if math.isnan(item[0]) or _COMPARISONS[rule.comparison](item[0], rule.bound)]
    if not broken:
        return ""
    upwards = rule.comparison.startswith(">")
    value, runtime = max(broken, key=lambda item: (math.isnan(item[0]), item[0] if upwards else -item[0]))
    return f"{measure.words} of {runtime} is {measure.show(value)}{_more(len(broken), 'runtime')}."


def _more(found: int, noun: str) -> str:
    return f" (and {count(found - 1, 'more ' + noun)})" if found > 1 else ""


def _output(result: DiffResult) -> str:
    broken = [item for runtime in result.runtimes for item in runtime.outputs if not item.passed]
    if broken:
        worst = max(broken, key=lambda item: item.severity)
        return f"{_where(worst)}{_more(len(broken), 'output')}."
    # No output shows it when a runtime broke down, or when no near tie excuses its choices of experts.
    others = [item for item in result.runtimes if item.verdict in ("failed", "differs")]
    if others:
        what = {"failed": "failed", "differs": "differs"}[others[0].verdict]
        return f"{others[0].runtime} {what}{_because(others[0])}{_more(len(others), 'runtime')}."
    return ""


def _where(item: ComparedOutput) -> str:
    error = f"{number(item.errors.max_abs)}, {times(item.severity)} what is allowed"
    return f"{item.output} of {item.runtime} in case {item.case!r} errs by {error}"


def _because(runtime: RuntimeDiff) -> str:
    return f" ({reason(runtime).rstrip('.')})" if runtime.reason else ""


def _layer(result: DiffResult) -> str:
    # Layers are compared where an output differs, unless they were asked for: none compared is none at fault.
    broken = [item for runtime in result.runtimes for item in runtime.layers if not item.passed]
    broken += [item.layer for item in result.culprits if item.layer not in broken]
    if not broken:
        return ""
    worst = max(broken, key=lambda item: item.severity)
    more = _more(len(broken), "layer")
    return f"{worst.node} ({worst.operator}) of {worst.runtime} errs by {number(worst.own)} itself{more}."


def _skipped(result: DiffResult) -> str:
    skipped = [item for item in result.runtimes if item.verdict == "skipped"]
    if not skipped:
        return ""
    return f"{skipped[0].runtime} was skipped{_because(skipped[0])}{_more(len(skipped), 'runtime')}."


def _regression(result: DiffResult) -> str:
    if not result.regressions:
        return ""
    first = result.regressions[0]
    return f"the {first.what} {first.name} got worse since the baseline{_more(len(result.regressions), 'regression')}."


def _nondeterminism(result: DiffResult) -> str:
    noise = [(item.noise, item.runtime) for item in result.runtimes if item.noise is not None]
    noise += [(item.noise, f"{item.good} or {item.bad}") for item in result.bisections]
    if not noise:
        return "cannot be judged, because no run was repeated."
    # `not … <= 0`, because a NaN that comes and goes is noise too.
    broken = [item for item in noise if not item[0] <= 0.0]
    if not broken:
        return ""
    value, runtime = max(broken, key=lambda item: math.inf if math.isnan(item[0]) else item[0])
    return f"repeated runs of {runtime} differ by {number(value)}{_more(len(broken), 'runtime')}."


def _never(_result: DiffResult) -> str:
    return ""


def _error(runtime: RuntimeDiff) -> float | None:
    errors = [item.errors.max_abs for item in runtime.outputs]
    return next((error for error in errors if math.isnan(error)), max(errors, default=None))


def _kl(runtime: RuntimeDiff) -> float | None:
    return runtime.language.kl if runtime.language else None


def _kl_max(runtime: RuntimeDiff) -> float | None:
    return runtime.language.kl_max if runtime.language else None


def _top1(runtime: RuntimeDiff) -> float | None:
    if runtime.language:
        return runtime.language.top1_agreement
    if runtime.classifier and runtime.classifier.examples:
        return 1.0 - runtime.classifier.flipped / runtime.classifier.examples
    return None


def _perplexity(runtime: RuntimeDiff) -> float | None:
    return perplexity_change(runtime.language) if runtime.language else None


def _accuracy(runtime: RuntimeDiff) -> float | None:
    return runtime.classifier.accuracy if runtime.classifier else None


def _divergence(runtime: RuntimeDiff) -> float | None:
    if runtime.language is None or not runtime.language.greedy_tokens:
        return None
    first = runtime.language.first_divergence
    return math.inf if first is None else float(first)


def _flips(runtime: RuntimeDiff) -> float | None:
    """Predictions and expert choices that differ."""
    if runtime.classifier is None and not runtime.choices:
        return None
    return float(runtime.flips + (runtime.classifier.flipped if runtime.classifier else 0))


def _whole(value: float) -> str:
    return f"{value:.0f}"


_CONDITIONS: dict[str, Callable[[DiffResult], str]] = {
    "output": _output,
    "layer": _layer,
    "skipped": _skipped,
    "regression": _regression,
    "nondeterminism": _nondeterminism,
    "never": _never,
}

_MEASURES: dict[str, _Measure] = {
    "error": _Measure("the largest error", _error, number, "error:ort-fused>1e-3"),
    "flips": _Measure("the number of flipped predictions and expert choices", _flips, _whole, "flips>0"),
    "top1": _Measure("the top-1 agreement", _top1, share, "top1<0.999", percent=True),
    "kl": _Measure("the mean KL divergence", _kl, number, "kl>1e-3"),
    "kl-max": _Measure("the largest KL divergence", _kl_max, number, "kl-max>0.1"),
    "perplexity": _Measure("the increase of the perplexity", _perplexity, share, "perplexity>1%", percent=True),
    "accuracy": _Measure("the accuracy", _accuracy, share, "accuracy<0.97", percent=True),
    "divergence": _Measure("the first diverging token", _divergence, _whole, "divergence<64"),
}
