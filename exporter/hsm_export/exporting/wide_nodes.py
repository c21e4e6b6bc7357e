"""Which nodes of a low-precision export compute in float32, as the file of a precision plan says."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInputError, UsageError
from ..formats.document import read_file
from ..formats.precision_plan import ObeyedPlan

if TYPE_CHECKING:
    from .source import Source

_REMEDY = "write it with `hsm-export diff --precision-plan`"


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
    """Read the file of a plan, which anybody may have written.

    Raises:
        BadInputError: it is missing, no JSON, no plan, of another version, or its fields are malformed.
    """
    plan = read_file(path, ObeyedPlan, "a precision plan", _REMEDY)
    names = tuple(node.name for node in plan.nodes)
    if len(set(names)) != len(names):
        raise BadInputError(f"{path} lists a node twice", _REMEDY)
    return WideNodes(Path(path), plan.precision, plan.source_sha256, plan.target, names)
