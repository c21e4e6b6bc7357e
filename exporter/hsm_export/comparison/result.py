"""One output of one runtime on one set of inputs, against its reference."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..formats.result import Result
from .error import Errors
from .threshold import Threshold
from .verdict import apart


@dataclass(frozen=True)
class ComparedOutput(Result):
    """One output of one runtime in one case, against the reference.

    Attributes:
        runtime, output, case: names; an expert operator's `….routing_logits` count as outputs.
        input_shapes: shape of every input.
        shape: shape of the output.
        errors: how far apart.
        threshold: how far apart it may be.
        reason: why it differs; None when it does not.
    """

    runtime: str
    output: str
    case: str
    input_shapes: dict[str, tuple[int, ...]]
    shape: tuple[int, ...]
    errors: Errors
    threshold: Threshold
    reason: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the output meets its threshold."""
        return self.reason is None

    @property
    def judged(self) -> bool:
        """Whether anything was compared: empty outputs are equal, those of which no element counts are not."""
        return self.errors.compared > 0 or self.reason is not None or 0 in self.shape

    @property
    def severity(self) -> float:
        """Error in units of the threshold; infinite where it differs whatever the threshold is."""
        found = ratio(self.errors.max_abs, self.threshold.value)
        return found if self.passed or found > 1.0 else math.inf

    def line(self) -> str:
        """Return one line that names the runtime, output, worst element, both values, inputs' shapes and the case."""
        index = ", ".join(map(str, self.errors.worst_index))
        value, reference = apart(self.errors.value, self.errors.reference, 6)
        return (
            f"{self.runtime}: output {self.output}[{index}] is {value}, should be {reference} "
            f"({self.reason or 'within tolerance'}; input {describe_shapes(self.input_shapes)}; case {self.case!r})"
        )


def ratio(error: float, allowed: float) -> float:
    """Return an error in units of what is allowed."""
    if error == 0.0:
        return 0.0
    # A NaN is the worst there is; as a NaN it would be neither more nor less than any other.
    return error / allowed if allowed > 0 and not math.isnan(error) else math.inf


def describe_shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    """Return input shapes as text: `tokens 2×17, lengths 2`."""
    return ", ".join(f"{name} {'×'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items())
