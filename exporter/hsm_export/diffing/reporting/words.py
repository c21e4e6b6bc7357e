"""Numbers, names and verdicts in the words that every report uses."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...comparison.predictions import ClassifierMetrics, LanguageMetrics
from ...comparison.ulps import BUCKETS
from ..results import DiffResult, Regression, RuntimeDiff

NO_RUNTIME = "no runtime was compared: none of those asked for works here"


@dataclass(frozen=True)
class Verdict:
    """What a reader sees first.

    Attributes:
        passed: as in the result.
        word: "PASSED" or "FAILED".
        sentence: what happened.
        next_step: what to do about it.
        command: the command of that step; "" where there is none.
    """

    passed: bool
    word: str
    sentence: str
    next_step: str
    command: str = ""


def verdict(result: DiffResult, quote: Callable[[str], str] = str) -> Verdict:
    """Say in one sentence how it went, and what to do next.

    Args:
        result: what was found.
        quote: marks what comes from files and runtimes, such as names; the rest of the sentence is ours.
    """
    if result.passed:
        return Verdict(True, "PASSED", _passed(result, quote), _after_success(result))
    if result.outcome == "ended early":
        kept = [quote(item.runtime) for item in result.runtimes if item.verdict == "same"]
        until = f"Until then {', '.join(kept)} kept the numbers." if kept else "Nothing was compared until then."
        return Verdict(False, "ENDED EARLY", f"{_sentence(result.early)} {until}", "Repeat it with a higher limit.")
    if result.outcome == "not judged":
        if any(item.outputs for item in result.runtimes) or (result.unjudged and result.unjudged[0] != NO_RUNTIME):
            why = quote(result.unjudged[0]) if result.unjudged else "not everything was compared"
            return Verdict(False, "NOT JUDGED", _sentence(why), "Nothing differs, but this is no pass.")
        step = "Install a runtime; doctor says which ones this machine can have:"
        return Verdict(False, "NOT JUDGED", "Nothing was compared: no runtime ran.", step, "hsm-export doctor")
    sentence, step, command = _failed(result, quote)
    return Verdict(False, "FAILED", sentence, step, command)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _passed(result: DiffResult, quote: Callable[[str], str]) -> str:
    compared = [item for item in result.runtimes if item.verdict in ("same", "differs")]
    counts = f"{count(len(compared), 'runtime')}, {count(len(result.cases), 'case')}"
    beyond = [quote(item.runtime) for item in compared if item.verdict == "differs"]
    if beyond:
        rules = f"The rules hold: {quote(', '.join(result.fail_on))}"
        return f"{rules}; {', '.join(beyond)} goes beyond what rounding explains. {counts}."
    if len(compared) < len(result.runtimes):
        return f"What was compared keeps the numbers of {quote(result.reference)}: {counts} ({_others(result)})."
    return f"Every runtime keeps the numbers of {quote(result.reference)}: {counts}."


def _others(result: DiffResult) -> str:
    """Count the runtimes that are not the same, by verdict."""
    verdicts = [item.verdict for item in result.runtimes if item.verdict != "same"]
    return ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts))


def _after_success(result: DiffResult) -> str:
    if not result.complete:
        return "It ended early: repeat it with more time or memory before you rely on it."
    if any("ill-conditioned" in warning for warning in result.warnings):
        return "Compute what is ill-conditioned in another way or a wider type, if its digits matter; see the warnings."
    return "Nothing to do. Keep the JSON report (--save) as the --baseline of the next export."


def _failed(result: DiffResult, quote: Callable[[str], str]) -> tuple[str, str, str]:
    """Return the sentence, the next step and its command."""
    if result.culprits:
        return _culprit(result, quote)
    for word, step in (
        ("differs", _without_culprit(result, quote)),
        ("failed", "Read the runtime's message: what it could not run says nothing about its numbers."),
    ):
        found = [item for item in result.runtimes if item.verdict == word]
        if found:
            more = f" (and {count(len(found) - 1, 'more runtime')})" if len(found) > 1 else ""
            why = quote(reason(found[0]) or "no reason was given")
            return f"{quote(found[0].runtime)} {word}{more}: {why}", step, ""
    if result.violated:
        more = f" (and {len(result.violated) - 1} more)" if len(result.violated) > 1 else ""
        return f"A rule is violated{more}: {quote(result.violated[0])}", "Change the model, or the rule.", ""
    if result.problems:
        return quote(result.problems[0]), "Put this right first: it is not a matter of numbers.", ""
    return "It did not pass.", "Read the problems and notes above.", ""


def _without_culprit(result: DiffResult, quote: Callable[[str], str]) -> str:
    """Return the next step where an output differs and no node is known to be at fault."""
    blamed = [(item, *item.nodes[0]) for item in result.bisections if item.nodes]
    if blamed:
        item, node, operator = blamed[0]
        more = f" (and {count(len(item.nodes) - 1, 'more node')})" if len(item.nodes) > 1 else ""
        return f"Look at what bisection blames: {quote(node)} ({quote(operator)}){more}."
    if result.layer_case:
        return "No node is at fault by itself: --bisect finds the nodes that are together."
    return "Repeat it with --layers, to find the first node at fault."


def _culprit(result: DiffResult, quote: Callable[[str], str]) -> tuple[str, str, str]:
    culprit = result.culprits[0]
    item = culprit.layer
    if culprit.runtime == "onnx64":
        where = f"The file itself departs from {quote(result.reference)}, whatever runs it"
    else:
        where = f"{quote(culprit.runtime)} departs from {quote(result.reference)}"
    kind = f" ({culprit.word})" if culprit.word else ""
    sentence = f"{where}: {quote(item.node)} ({quote(item.operator)}) is the first node at fault{kind}."
    if culprit.command:
        return sentence, "Run that node alone, with its real inputs:", culprit.command
    return sentence, "Look at the inputs and attributes of that node below.", ""


def count(number: int, noun: str) -> str:
    """Return "1 case" or "3 cases"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def visible(text: str) -> str:
    r"""Replace control characters, bidirectional overrides and lone surrogates by escapes such as `\x1b`.

    Names come from strangers' files: what they hold must neither steer a terminal, nor reorder a line, nor make a
    document invalid.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp") else char
                   for char in text)  # fmt: skip


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def number(value: float | None) -> str:
    """Return an error or value with three digits, an en dash for None."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0.0:
        return "0"
    return f"{value:.2e}"


def exact(value: float | None) -> str:
    """Return a value with the nine digits that tell any two float32 apart."""
    if value is None:
        return "–"
    return f"{value:.9g}" if math.isfinite(value) else number(value)


def times(value: float) -> str:
    """Return a ratio to a threshold."""
    if not math.isfinite(value):
        return number(value)
    if value == 0.0:
        return "0"
    if value >= 1000:
        return f"{value:.1e}×"
    if value < 0.01:
        return "<0.01×"
    text = f"{value:.3g}" if value >= 10 else f"{value:.2f}"
    # Just beyond the threshold and just within must not read the same.
    sign = "" if float(text) != 1.0 or value == 1.0 else ">" if value > 1.0 else "<"
    return f"{sign}{text}×"


def share(value: float | None) -> str:
    """Return a share in percent that is 100 % only when it is whole."""
    if value is None:
        return "–"
    text = f"{value:.2%}"
    return f"{value:.6%}" if text == "100.00%" and value < 1.0 else text


def shape(value: Sequence[int]) -> str:
    """Return a shape as 2×6×512, "scalar" without axes."""
    return "×".join(map(str, value)) or "scalar"


def index(value: Sequence[int]) -> str:
    """Return an index as [1, 4, 17]."""
    return f"[{', '.join(map(str, value))}]"


def shapes(value: dict[str, tuple[int, ...]]) -> str:
    """Return shapes by name."""
    return ", ".join(f"{name} {shape(item)}" for name, item in value.items())


def seconds(value: float) -> str:
    """Return a time."""
    return f"{value:.2g} s" if value < 10 else f"{value:,.0f} s"


def size(value: int | None) -> str:
    """Return a number of bytes."""
    if value is None:
        return "–"
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def file_name(path: str) -> str:
    """Return the last part of a path."""
    return Path(path).name or path


def ulp_labels() -> tuple[str, ...]:
    """Return the names of the histogram's buckets: their upper bounds."""
    return (*map(_short, BUCKETS), "more")


def _short(bound: int) -> str:
    return f"{bound // 1024}k" if bound >= 1024 else str(bound)


def perplexity_change(metrics: LanguageMetrics) -> float | None:
    """Return the relative increase of the perplexity over the reference's; None where it was not measured."""
    if metrics.perplexity is None or not metrics.reference_perplexity:
        return None
    return metrics.perplexity / metrics.reference_perplexity - 1.0


def divergence(metrics: LanguageMetrics) -> str:
    """Say where greedily generated text parts: "nowhere in 64 tokens", "at token 17 of 64: …"."""
    if not metrics.greedy_tokens:
        return "–"
    if metrics.first_divergence is None:
        return f"nowhere in {count(metrics.greedy_tokens, 'token')}"
    place = f"at token {metrics.first_divergence} of {metrics.greedy_tokens}"
    if metrics.diverging is None:
        return place
    wanted, got, margin = metrics.diverging
    return f"{place}: {got} instead of {wanted}, which the reference preferred by {number(margin)}"


def reason(runtime: RuntimeDiff) -> str:
    """Return why a runtime was skipped, failed or differs, without its name at the front."""
    return (runtime.reason or "").removeprefix(f"{runtime.runtime}: ")


def row_verdict(runtime: RuntimeDiff) -> str:
    """Return a runtime's verdict beside its worst output: what differs may be a node, and no output yet."""
    within = runtime.worst is not None and runtime.worst.passed
    return "node at fault" if within and runtime.culprit is not None else runtime.verdict


def experts(runtime: RuntimeDiff) -> str:
    """Say how many choices of experts differ."""
    return f"{runtime.flips:,} of {runtime.choices:,}" if runtime.choices else "–"


def predicted(language: LanguageMetrics | None, classifier: ClassifierMetrics | None) -> list[str]:
    """Say how far a model's predictions are the reference's."""
    parts = []
    if language is not None:
        parts.append(f"top-1 {share(language.top1_agreement)}, KL {number(language.kl)}")
    if classifier is not None:
        parts.append(f"{classifier.flipped:,} of {classifier.examples:,} predictions flip")
    return parts


def meaning(runtime: RuntimeDiff) -> str:
    """Say briefly what the differences mean for the model's task."""
    parts = predicted(runtime.language, runtime.classifier)
    if runtime.flips:
        parts.append(f"{experts(runtime)} expert choices flip")
    return "; ".join(parts) or "–"


_RANKS = ("same", "differs", "failed", "skipped", "not there", "not judged")


def change(item: Regression) -> tuple[str, str]:
    """Return what a regression was before and is now; of a verdict the words of its ranks."""
    if item.what == "verdict":
        return _rank(item.before), _rank(item.after)
    return number(item.before), number(item.after)


def _rank(value: float) -> str:
    return _RANKS[int(value)] if value in range(len(_RANKS)) else number(value)


def shortened(name: str, most: int = 120) -> str:
    """Return a long name without its middle: its beginning says where it is, its end what."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"
