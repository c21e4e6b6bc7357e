"""The file that says how each weight of a model is stored: `quantize --plan FILE` obeys it, quantised files carry it.

It is found by `hsm_export.quantisation`; everything in it but the weights' forms says how good it is.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

import msgspec

from ..errors import UsageError
from .document import Document

Metric = Literal["kl", "top1", "perplexity", "error"]
Form = Literal["fp32", "fp16", "int8", "int4x128", "int4x64", "int4x32", "dynamic8"]
Objective = Literal["size", "decode", "prefill"]
Dialect = Literal["ort", "qdq"]
Activations = Literal["float32", "int8"]

_BUDGET = re.compile(
    r"(?P<metric>kl|top1|perplexity|error)=\+?(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)(?P<percent>%?)", re.I
)
_FORMS = "kl=1e-3, top1=0.99, perplexity=+0.5% or error=0.01"


class Budget(Document, frozen=True):
    """The most that quantising may cost, on average over all predictions.

    Attributes:
        metric: "kl" (mean KL divergence from the given file's predictions, in nats), "top1" (share of equal likeliest
            tokens or classes), "perplexity" (its relative increase) or "error" (root mean square of the outputs'
            difference over that of the outputs).
        limit: the largest KL, increase or error allowed; of "top1" the smallest share.
    """

    metric: Metric
    limit: float

    @staticmethod
    def parse(text: str) -> Budget:
        """Read `kl=1e-3`, `top1=0.99`, `perplexity=+0.5%` or `error=0.01`.

        Raises:
            UsageError: it is something else, or no number that a budget can be.
        """
        match = _BUDGET.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"{text!r} is no budget", f"budgets are {_FORMS}")
        try:
            number = float(match["number"]) / (100 if match["percent"] else 1)
        except ValueError as error:
            raise UsageError(f"{text!r} is no budget", f"budgets are {_FORMS}") from error
        metric = match["metric"].lower()
        if not 0 < number < math.inf or (metric == "top1" and number >= 1):
            raise UsageError(f"{text!r} allows nothing or everything", f"budgets are {_FORMS}")
        return Budget(metric, number)  # type: ignore[arg-type]

    @property
    def harm(self) -> float:
        """The limit as a number of which less is better: of "top1" the share of other tokens."""
        return 1.0 - self.limit if self.metric == "top1" else self.limit

    @property
    def text(self) -> str:
        """The budget as `parse` reads it."""
        return f"perplexity=+{self.limit:.4g}" if self.metric == "perplexity" else f"{self.metric}={self.limit:.4g}"


class Loss(Document, frozen=True):
    """What quantising costs on some inputs, against the given file in ONNX Runtime.

    Attributes:
        kl: mean KL(given file || quantised file) in nats; NaN for outputs that are no logits, as the next two.
        top1: share of positions or rows with the same likeliest token or class.
        perplexity: relative increase of the perplexity; NaN where the inputs are no tokens.
        error: root mean square of the outputs' difference over that of the outputs.
        positions: predictions (or numbers of the outputs) that were compared.
        bound: upper bound of the budget's metric as a harm (of "top1" the share of other tokens), with 95 %
            confidence: the mean and 1.645 times its standard error, which comes from the differences between sequences.
    """

    kl: float
    top1: float
    perplexity: float
    error: float
    positions: int
    bound: float

    def value(self, metric: Metric) -> float:
        """Return what a budget's limit is compared with."""
        return float(getattr(self, metric))

    def words(self, metric: Metric) -> str:
        """Say the budget's metric and the others that there are."""
        named: dict[Metric, str] = {
            "kl": f"KL {self.kl:.2e}",
            "top1": f"top-1 {self.top1:.4f}",
            "perplexity": f"perplexity {self.perplexity:+.2%}",
            "error": f"relative error {self.error:.2e}",
        }
        order: list[Metric] = [metric, *(key for key in named if key != metric)]
        return ", ".join(named[key] for key in order if not math.isnan(self.value(key)))


class PlannedWeight(Document, frozen=True):
    """How one weight is stored.

    Attributes:
        name: of the weight in the source's state dict.
        form: "fp32", "fp16", "int8" (a scale for each output channel, or for each block of 128 of its numbers),
            "int4x32", "int4x64", "int4x128" (a scale for each block of so many), "dynamic8" (int8, its product in
            integers, activations quantised at each call).
        rounding: "nearest" or "gptq" (each number's rounding makes up for those before it); "" for floats.
        operator: what reads it.
        elements: how many numbers it has.
        bytes: what it takes with its scales.
        alone: guide of the search when this weight alone has this form: mean KL or squared relative error.
        cheaper: the next cheaper form; "" where there is none.
        without: bound of the loss with that form in this plan; None where there is none.
        without_guide: guide of the search with that form in this plan. One of both is beyond the plan's target or
            ceiling.
    """

    name: str
    form: Form
    rounding: Literal["", "nearest", "gptq"] = ""
    operator: str = ""
    elements: int = 0
    bytes: int = 0
    alone: float = 0.0
    cheaper: str = ""
    without: float | None = None
    without_guide: float | None = None

    @property
    def bits(self) -> float:
        """Bits that a number of the weight takes, scales included."""
        return 8 * self.bytes / max(self.elements, 1)


class QuantisationPlan(Document, frozen=True, kw_only=True):
    """How every weight is stored, and what that costs.

    Attributes:
        source: the given file's name.
        source_sha256: SHA-256 of its bytes.
        budget: what was asked for.
        target: the bound that the search held itself to; below the budget's harm where inputs that it had not seen
            cost more than those that it had.
        ceiling: the largest guide (mean KL, or squared relative error) that the search allowed itself after inputs that
            it had not seen cost more than those that it had; None where it needed none.
        objective: what was made small: "size" (bytes of the file), "decode" (bytes read for a token) or "prefill"
            (time of a prompt).
        dialect: "ort" or "qdq".
        activations: what products with weights in blocks may make of what they multiply: "float32", or "int8", a scale
            for each block (MatMulNBits' `accuracy_level` 4), whose loss is part of what is measured.
        weights: every weight for which there is a choice, in the order of the file; none of them can take its next
            cheaper form without breaking the target.
        never: weights that are never quantised though they are matrices, such as those of a choice of experts.
        searched, held_out: the quantised file on the inputs of the search, and on inputs that the search never saw.
        bytes_before, bytes_after: of the given and the quantised file.
        calibration: the inputs, in words.
        trials: choices that were measured.
        seconds: time that it took.
        versions: the packages that measured it.
    """

    source: str
    source_sha256: str
    budget: Budget
    target: float
    ceiling: float | None
    objective: Objective
    dialect: Dialect
    weights: tuple[PlannedWeight, ...]
    never: tuple[str, ...]
    searched: Loss
    held_out: Loss
    bytes_before: int
    bytes_after: int
    calibration: str
    trials: int
    seconds: float
    versions: dict[str, str]
    activations: Activations = "float32"
    schema: Literal["hsm-export quantisation plan"] = "hsm-export quantisation plan"
    schema_version: Literal[1] = 1

    @property
    def bits(self) -> float:
        """Mean bits of a number of the weights for which there is a choice."""
        return 8 * sum(item.bytes for item in self.weights) / max(sum(item.elements for item in self.weights), 1)

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        ratio = self.bytes_before / max(self.bytes_after, 1)
        return (
            f"{ratio:.1f} times smaller ({self.bits:.2f} bits a weight) within {self.budget.text}: "
            f"{self.held_out.words(self.budget.metric)} on inputs that the search never saw"
        )


class ObeyedWeight(msgspec.Struct, frozen=True):
    """What obeying a plan needs of a weight; the rest may be missing."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    form: Form
    rounding: Literal["", "nearest", "gptq"] = ""


class ObeyedQuantisation(msgspec.Struct, frozen=True, kw_only=True):
    """What obeying a plan needs; the rest may be missing, so that plans can be written by hand."""

    schema: Literal["hsm-export quantisation plan"] = "hsm-export quantisation plan"
    schema_version: Literal[1] = 1
    weights: tuple[ObeyedWeight, ...]
    dialect: Dialect = "ort"
    activations: Activations = "float32"
    budget: Budget | None = None
