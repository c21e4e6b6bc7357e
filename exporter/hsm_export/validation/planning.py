"""Which runtimes take part in a validation, and in which part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import MissingDependencyError, UsageError
from ..onnx_model.model_file import ModelFile
from ..runtimes.evaluations import have_evaluations
from ..runtimes.rounding import draws, more_draws
from ..runtimes.runtime import RunContext, Runtime
from ..runtimes.summation import orders
from ..torch_model.torch_source import TorchSource
from .results import RuntimeReport

_ARBITERS = ("torch64", "onnx64")
# The Python evaluator takes minutes for models beyond this.
_REFERENCE_LIMIT = 100_000_000


@dataclass(frozen=True)
class Plan:
    """Which runtimes play which part; `skipped` holds those that are left out, with the reason."""

    arbiter: Runtime
    baseline: Runtime
    candidates: tuple[Runtime, ...]
    skipped: tuple[RuntimeReport, ...]


def requested(runtimes: Sequence[str] | None, has_source: bool) -> tuple[str, ...] | None:
    """Check the names of the runtimes that were asked for."""
    from ..runtimes import get

    if runtimes is None:
        return None
    for name in runtimes:
        runtime = get(name)
        if runtime.needs_source and not has_source:
            raise UsageError(f"runtime {name!r} needs the PyTorch model", "name it with --against CHECKPOINT")
        reason = runtime.available()
        if reason:
            raise MissingDependencyError(f"runtime {name!r} does not work here: {reason}")
    return tuple(dict.fromkeys(runtimes))


def make_plan(names: tuple[str, ...] | None, file: ModelFile, source: TorchSource | None) -> Plan:
    """Give every runtime its part."""
    from ..runtimes import get
    from ..runtimes import names as known

    arbiter = get("torch64" if source else "onnx64")
    baseline = get("torch" if source else "onnx-reference")
    wanted = [get(name) for name in names or known()]
    if names is None:
        wanted = [runtime for runtime in wanted if runtime.by_default and runtime.name not in _ARBITERS]
    candidates, skipped = [], []
    for runtime in wanted:
        if runtime.name in (arbiter.name, baseline.name) or (runtime.needs_source and source is None):
            continue
        reason = runtime.available()
        if names is None and runtime.name == "onnx-reference" and file.weight_bytes() > _REFERENCE_LIMIT:
            reason = "slow for a model of this size; ask for it with --runtimes"
        if names is None and reason is None:
            reason = runtime.refuses(file)
        if reason:
            skipped.append(RuntimeReport(runtime.name, "skipped", 0, reason=reason))
        else:
            candidates.append(runtime)
    return Plan(arbiter, baseline, tuple(candidates), tuple(skipped))


def baseline_contexts(baseline: Runtime, context: RunContext, file: ModelFile) -> list[RunContext]:
    """Return the ways in which the baseline evaluates a file: all are right, and each rounds differently."""
    several = baseline.needs_source and have_evaluations((node.domain, node.op_type) for node in file.model.graph.node)
    ways = (False, True) if several else (False,)
    return [replace(context, summation=order, as_body=way) for way in ways for order in orders(file.weight_bytes())]


def rounding_contexts(context: RunContext, file: ModelFile, *, more: bool = False) -> list[RunContext]:
    """Return the ways in which the arbiter's maths is rounded at random, to show what the type explains.

    Args:
        context: how the arbiter runs.
        file: the model.
        more: those that come after the first few, where these would condemn a runtime.
    """
    chosen = (more_draws if more else draws)(file.weight_bytes())
    return [replace(context, rounding=draw) for draw in chosen]
