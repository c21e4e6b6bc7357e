"""What differences mean: perplexity and agreement of language models, flipped predictions of classifiers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..formats.result import Result
from .distributions import divergences, log_softmax, top

if TYPE_CHECKING:
    from ..onnx_model.model_file import ModelFile

Array = NDArray[Any]

_SHOWN_FLIPS = 20
_LANGUAGE_MODEL, _CLASSIFICATION = "language_model", "classification"
# Logits that are looked at together: bounds the memory that their distributions take in float64.
_PIECE = 1 << 22
_LARGEST_EXPONENT = 709.0  # of a double


@dataclass(frozen=True)
class LanguageMetrics(Result):
    """What the differences mean for a language model.

    Attributes:
        tokens: predictions compared.
        top1_agreement: share of positions whose most probable token is the reference's.
        kl: mean KL(reference || runtime) in nats; kl_max: the largest of a position.
        perplexity, reference_perplexity: of the text that was fed; None when the inputs were not text.
        greedy_tokens: tokens that were generated greedily.
        first_divergence: index of the first generated token that differs; None when all are the same.
        diverging: (reference's token, runtime's token, reference's margin between both in logits) there, or None.
    """

    tokens: int
    top1_agreement: float
    kl: float
    kl_max: float
    perplexity: float | None = None
    reference_perplexity: float | None = None
    greedy_tokens: int = 0
    first_divergence: int | None = None
    diverging: tuple[int, int, float] | None = None


@dataclass(frozen=True)
class FlippedPrediction(Result):
    """An example that a runtime classifies differently.

    Attributes:
        case: which inputs.
        row: the example in them.
        reference, runtime: classes.
        label: the right class; None when it is not known.
        margin: the reference's difference of both classes' logits.
    """

    case: str
    row: int
    reference: int
    runtime: int
    label: int | None
    margin: float


@dataclass(frozen=True)
class ClassifierMetrics(Result):
    """What the differences mean for a classifier.

    Attributes:
        examples: predictions compared.
        flips: those that differ, the first 20.
        flipped: how many differ.
        accuracy, reference_accuracy: share of right ones; None without labels.
    """

    examples: int
    flipped: int
    flips: tuple[FlippedPrediction, ...]
    accuracy: float | None = None
    reference_accuracy: float | None = None


def scored_output(file: ModelFile) -> tuple[str, str]:
    """Return what a file does, "language_model" or "classification", and the output that says how well; else ("", "").

    A plain ONNX file is a language model where an output has a number for every row of the table that its tokens
    look up, and a classifier where its only output is (B,C).
    """
    outputs = {value.name: value.type.tensor_type.shape.dim for value in file.model.graph.output}
    if file.task:
        kind = _LANGUAGE_MODEL if file.task == _LANGUAGE_MODEL else _CLASSIFICATION
        return (kind, "logits") if "logits" in outputs else ("", "")
    tokens = file.scored_tokens
    for name, dims in outputs.items():
        if tokens is not None and len(dims) == 3 and dims[-1].dim_value == tokens.drawn[1] + 1:
            return _LANGUAGE_MODEL, name
    if len(outputs) == 1:
        ((name, dims),) = outputs.items()
        if len(dims) == 2 and dims[1].dim_value > 1:
            return _CLASSIFICATION, name
    return "", ""


def language_metrics(
    reference_logits: Array, logits: Array, tokens: Array | None = None, lengths: Array | None = None
) -> LanguageMetrics:
    """Compare the predictions of one run; arguments as of `LanguageTally.add`."""
    tally = LanguageTally()
    tally.add(reference_logits, logits, tokens, lengths)
    return tally.result()


class LanguageTally:
    """Adds up, run by run, how a language model's predictions differ from the reference's."""

    def __init__(self) -> None:
        self._positions = 0
        self._agreeing = 0
        self._kl = 0.0
        self._kl_max = 0.0
        self._predicted = 0
        self._surprise = 0.0
        self._reference_surprise = 0.0

    def add(
        self, reference_logits: Array, logits: Array, tokens: Array | None = None, lengths: Array | None = None
    ) -> None:
        """Add a run. Positions at which the reference is not finite are left out.

        Args:
            reference_logits, logits: (B,T,V); (B,1,V) where the file returns those of the last token only.
            tokens: (B,T) what was fed, where it is text whose perplexity means something; else None.
            lengths: (B,) valid tokens of each row; None when all are.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        if logits.ndim != 3:
            return  # the file says otherwise of this output, so its numbers are no logits
        if reference_logits.shape != logits.shape:
            raise ValueError(f"logits of shapes {reference_logits.shape} and {logits.shape} cannot be compared")
        targets = None if tokens is None or tokens.shape != logits.shape[:2] else _targets(tokens, lengths)
        valid = _valid(logits.shape, lengths)
        places = np.flatnonzero(valid)
        size = max(1, _PIECE // logits.shape[-1])
        for start in range(0, len(places), size):
            piece = places[start : start + size]
            chosen = None if targets is None else targets.reshape(-1)[piece]
            self._add(_rows(reference_logits, piece), _rows(logits, piece), chosen)

    def result(self) -> LanguageMetrics:
        """Return the means over all runs."""
        return LanguageMetrics(
            tokens=self._positions,
            top1_agreement=self._agreeing / self._positions if self._positions else 1.0,
            kl=self._kl / self._positions if self._positions else 0.0,
            kl_max=self._kl_max,
            perplexity=_exponential(self._surprise, self._predicted),
            reference_perplexity=_exponential(self._reference_surprise, self._predicted),
        )

    def _add(self, reference: Array, value: Array, targets: Array | None) -> None:
        """Add positions (P,V) with the tokens (P,) that followed; -1 where none did."""
        specified = np.isfinite(reference).all(-1)
        reference, value = reference[specified], value[specified]
        if not len(reference):
            return
        log_p, log_q = log_softmax(reference), log_softmax(value)
        kl = divergences(log_p, log_q)
        self._positions += len(kl)
        self._agreeing += int((top(reference) == top(value)).sum())
        self._kl += float(kl.sum())
        self._kl_max = max(self._kl_max, float(kl.max()))
        if targets is None:
            return
        followed = np.flatnonzero(targets[specified] >= 0)
        chosen = targets[specified][followed]
        self._predicted += len(followed)
        self._surprise -= float(log_q[followed, chosen].sum())
        self._reference_surprise -= float(log_p[followed, chosen].sum())


def classifier_metrics(
    reference_logits: Array, logits: Array, labels: Array | None = None, case: str = ""
) -> ClassifierMetrics:
    """Compare the predictions of one run; arguments as of `ClassifierTally.add`."""
    tally = ClassifierTally()
    tally.add(reference_logits, logits, labels, case)
    return tally.result()


class ClassifierTally:
    """Adds up, run by run, which examples a runtime classifies differently."""

    def __init__(self) -> None:
        self._examples = 0
        self._flipped = 0
        self._flips: list[FlippedPrediction] = []
        self._labelled = 0
        self._hits = 0
        self._reference_hits = 0

    def add(self, reference_logits: Array, logits: Array, labels: Array | None = None, case: str = "") -> None:
        """Add a run. Examples whose reference is not finite are left out.

        Args:
            reference_logits, logits: (B,C).
            labels: (B,) the right classes, where they are known.
            case: what the inputs were.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        if logits.ndim != 2:
            return  # the file says otherwise of this output, so its numbers are no logits
        if reference_logits.shape != logits.shape:
            raise ValueError(f"logits of shapes {reference_logits.shape} and {logits.shape} cannot be compared")
        if labels is not None and labels.shape != logits.shape[:1]:
            raise ValueError(f"labels of shape {labels.shape} do not fit logits of shape {logits.shape}")
        specified = np.isfinite(reference_logits).all(-1)
        expected, predicted = top(reference_logits), top(logits)
        flipped = np.flatnonzero(specified & (expected != predicted))
        self._examples += int(specified.sum())
        self._flipped += len(flipped)
        if labels is not None:
            self._labelled += int(specified.sum())
            self._hits += int((specified & (predicted == labels)).sum())
            self._reference_hits += int((specified & (expected == labels)).sum())
        for row in flipped[: _SHOWN_FLIPS - len(self._flips)]:
            numbers = reference_logits[row].astype(np.float64)
            self._flips.append(
                FlippedPrediction(
                    case=case,
                    row=int(row),
                    reference=int(expected[row]),
                    runtime=int(predicted[row]),
                    label=None if labels is None else int(labels[row]),
                    margin=float(numbers[expected[row]] - numbers[predicted[row]]),
                )
            )

    def result(self) -> ClassifierMetrics:
        """Return the counts over all runs."""
        return ClassifierMetrics(
            examples=self._examples,
            flipped=self._flipped,
            flips=tuple(self._flips),
            accuracy=self._hits / self._labelled if self._labelled else None,
            reference_accuracy=self._reference_hits / self._labelled if self._labelled else None,
        )


def _targets(tokens: Array, lengths: Array | None) -> NDArray[np.int64]:
    """Return the token that followed each one (B,T); -1 where none did."""
    targets = np.full(tokens.shape, -1, np.int64)
    targets[:, :-1] = tokens[:, 1:]
    if lengths is not None:
        targets[np.arange(tokens.shape[1]) >= lengths[:, None] - 1] = -1
    return targets


def _valid(shape: tuple[int, ...], lengths: Array | None) -> NDArray[np.bool_]:
    """Return which positions (B,T) of logits (B,T,V) mean something; with T = 1 those of rows that got a token."""
    if lengths is None:
        return np.ones(shape[:2], bool)
    valid: NDArray[np.bool_] = np.arange(shape[1]) < lengths[:, None]
    return valid


def _rows(logits: Array, positions: NDArray[np.int64]) -> Array:
    """Return the logits (P,V) at positions counted over batch and sequence."""
    rows: Array = logits.reshape(-1, logits.shape[-1])[positions].astype(np.float64)
    return rows


def _exponential(surprise: float, count: int) -> float | None:
    if not count:
        return None
    mean = surprise / count
    return math.exp(mean) if mean < _LARGEST_EXPONENT else math.inf
