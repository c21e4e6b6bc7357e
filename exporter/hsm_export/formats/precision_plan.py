"""The file that says which nodes of a low-precision export compute in float32: `export --precision-plan FILE` obeys it.

It is found by `hsm_export.diffing.precision.planning`; everything in it but the names of the nodes says how good it is.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from .document import Document

LowPrecision = Literal["fp16", "bf16"]


class PlannedNode(Document, frozen=True):
    """A node that stays in float32.

    Attributes:
        name, operator: of the node in the exported file.
        by_rule: the rule by operator type keeps it in float32 too.
        bytes, flops: what it moves more in float32, and what it computes in float32, at the shapes of the largest case.
        alone: root mean square of the outputs' errors when this node alone is low, and all others are float32.
        without: largest error of the plan without this node; it is beyond the target.
    """

    name: str
    operator: str
    by_rule: bool
    bytes: int
    flops: int
    alone: float
    without: float

    @property
    def reason(self) -> str:
        """Why it is listed, in words."""
        return f"without it the error is {self.without:.3g}"


class Measured(Document, frozen=True):
    """What one choice of types costs.

    Attributes:
        nodes: nodes in float32, of those for which there is a choice.
        error: largest |output - PyTorch float64| over the cases of the search, every result rounded to its type.
        rms: root mean square of the same errors.
        fresh_error: largest error over inputs that the search has not seen.
        ort_error: largest error over the cases of the search in the runtime `ort`, whose CPU provider keeps float32
            between neighbours for which it has no float16 kernels.
        milliseconds: median time of the largest case in ONNX Runtime on this machine, the choices taking turns.
    """

    nodes: int
    error: float
    rms: float
    fresh_error: float
    ort_error: float
    milliseconds: float


class PrecisionPlan(Document, frozen=True, kw_only=True):
    """Which nodes stay in float32, and what that is worth.

    Attributes:
        source: what it was made from, in words.
        source_sha256: SHA-256 of its weights and configuration.
        precision: "fp16" or "bf16".
        target: largest error allowed.
        target_from: "rule" (the error of the rule by operator type) or "given".
        nodes: the nodes in float32, the most harmful for their cost first; without any of them the error exceeds
            the target.
        candidates: nodes for which both types are possible.
        low, rule, plan, fp32: all candidates low; by the rule; by this plan; all in float32.
        cases: the inputs of the search in words.
        trials: files that were converted and run.
        seconds: time that it took.
        versions: the packages that measured it.
    """

    source: str
    source_sha256: str
    precision: LowPrecision
    target: float
    target_from: str
    nodes: tuple[PlannedNode, ...]
    candidates: int
    low: Measured
    rule: Measured
    plan: Measured
    fp32: Measured
    cases: tuple[str, ...]
    trials: int
    seconds: float
    versions: dict[str, str]
    schema: Literal["hsm-export precision plan"] = "hsm-export precision plan"
    schema_version: Literal[1] = 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the nodes in float32."""
        return tuple(node.name for node in self.nodes)

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        return (
            f"{len(self.nodes)} of {self.candidates} nodes in fp32 keep the error at {self.plan.error:.3g} "
            f"(target {self.target:.3g}); the rule by operator type keeps {self.rule.nodes}, with {self.rule.error:.3g}"
        )


class ObeyedNode(msgspec.Struct, frozen=True):
    """What an export needs of a planned node; the rest may be missing."""

    name: Annotated[str, msgspec.Meta(min_length=1)]


class ObeyedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What an export needs of a plan; the rest may be missing, so that plans can be written by hand."""

    schema: Literal["hsm-export precision plan"] = "hsm-export precision plan"
    schema_version: Literal[1] = 1
    precision: LowPrecision
    source_sha256: str
    target: float
    nodes: tuple[ObeyedNode, ...]
