"""The file that says which nodes of a low-precision export compute in float32: `export --precision-plan FILE` obeys it.

It is found by `hsm_export.diffing.precision.planning`; everything in it but the names of the nodes says how good it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dtypes import EXPORTED_PRECISIONS
from ..errors import BadInputError, UsageError
from ..files import atomic_path, read_document, require_file
from ..formats.result import Result

if TYPE_CHECKING:
    from .source import Source

SCHEMA = "hsm-export precision plan"
SCHEMA_VERSION = 1
_PRECISIONS = EXPORTED_PRECISIONS[1:]
_REMEDY = "write it with `hsm-export diff --precision-plan`"


@dataclass(frozen=True)
class PlannedNode(Result):
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


@dataclass(frozen=True)
class Measured(Result):
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


@dataclass(frozen=True)
class PrecisionPlan(Result):
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
    precision: str
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
    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION

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

    def write(self, path: str | Path) -> None:
        """Write the plan as JSON, whole or not at all.

        Raises:
            BadInputError: the file cannot be written.
        """
        with atomic_path(path) as scratch:
            scratch.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class WideNodes:
    """What an export needs of a plan.

    Attributes:
        path: the file.
        precision: "fp16" or "bf16".
        source_sha256: of the model that it is for.
        target: its target error.
        names: the nodes in float32.
    """

    path: Path
    precision: str
    source_sha256: str
    target: float
    names: tuple[str, ...]

    def require_fit(self, source: Source, precision: str) -> None:
        """Refuse another model or precision.

        Raises:
            UsageError: the plan is for another precision or a graph that it does not describe.
            BadInputError: it is for other weights.
        """
        if precision != self.precision:
            raise UsageError(
                f"the precision plan {self.path} is for {self.precision}, not for {precision}",
                f"add --precision {self.precision}, or make a plan for {precision}",
            )
        if source.state is not None:
            raise UsageError(
                f"the precision plan {self.path} is for the full pass, not for a decoding step", "leave one of both out"
            )
        if source.sha256 != self.source_sha256:
            raise BadInputError(
                f"the precision plan {self.path} was made for another model than {source.name}: its weights have the "
                f"SHA-256 {self.source_sha256[:12]}…, these have {source.sha256[:12]}…",
                _REMEDY,
            )

    def require_nodes(self, known: Collection[str]) -> None:
        """Raise BadInputError when the plan names a node that the graph does not have."""
        unknown = [name for name in self.names if name not in known]
        if unknown:
            raise BadInputError(
                f"the precision plan {self.path} names the node {unknown[0]!r}, which the graph does not have", _REMEDY
            )

    def to_json(self) -> str:
        """Return what the exported file's metadata says about its plan."""
        return json.dumps({"target": self.target, "nodes": list(self.names)})


def read_plan(path: str | Path) -> WideNodes:
    """Read the file of a plan, as if a stranger had written it.

    Raises:
        BadInputError: it is missing, no JSON, no plan, of another version, or its fields are malformed.
    """
    path = require_file(path, "the precision plan")
    data = read_document(path, SCHEMA, SCHEMA_VERSION, "a precision plan", _REMEDY)
    nodes = data.get("nodes")
    names = (
        [node.get("name") if isinstance(node, dict) else None for node in nodes] if isinstance(nodes, list) else None
    )
    if names is None or not all(isinstance(name, str) and name for name in names):
        raise BadInputError(f"{path}: nodes must be a list of objects that have a name", _REMEDY)
    if len(set(names)) != len(names):
        raise BadInputError(f"{path} lists a node twice", _REMEDY)
    precision, sha256 = data.get("precision"), data.get("source_sha256")
    if precision not in _PRECISIONS:
        raise BadInputError(f"{path}: precision must be fp16 or bf16, got {precision!r}", _REMEDY)
    if not isinstance(sha256, str):
        raise BadInputError(f"{path}: source_sha256 must be text", _REMEDY)
    return WideNodes(path, precision, sha256, _number(path, data, "target"), tuple(str(name) for name in names))


def _number(path: Path, data: dict[str, Any], key: str) -> float:
    value = data.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise BadInputError(f"{path}: {key} must be a number, got {value!r}", _REMEDY)
    return float(value)
