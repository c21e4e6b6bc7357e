"""Find the first operator at which a runtime departs from the arbiter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from ..onnx_model.model_file import ModelFile
from ..runtimes.runtime import RunContext, Runtime
from ..runtimes.tracing import TracedNode, trace
from .cases import Case
from .reference import bars
from .running import forced_feed, free_feed, run


def first_departure(
    file: ModelFile, context: RunContext, runtimes: tuple[Runtime, Runtime, Runtime], case: Case
) -> str | None:
    """Say at which operator of domain `hsm` a failed runtime's numbers first leave the tolerance.

    Args:
        file: the model.
        context: what was run.
        runtimes: the arbiter, the baseline and the runtime that failed.
        case: the inputs on which it failed.

    Returns:
        One sentence, or None when the graph has no such operator.
    """
    model, traced = trace(context.model)
    if not traced:
        return None
    context = replace(context, model=model, traced=traced)
    arbiter, native, failed = _outputs(context, runtimes, case)
    allowed = bars(file, [case], [arbiter], [[native]])[0]
    healthy: TracedNode | None = None
    for node in traced:
        if any(allowed[name].judge(failed[name]).reason for name in node.outputs):
            return f"{_where(healthy)} the results of {node.name} ({node.operator}) do not"
        healthy = node
    return f"{_where(healthy)} what follows it does not"


def _outputs(context: RunContext, runtimes: Sequence[Runtime], case: Case) -> list[dict[str, NDArray[Any]]]:
    """Run the runtimes on one case with the arbiter's experts."""
    results: list[dict[str, NDArray[Any]]] = []
    feed = free_feed(case, context.routed)
    for runtime in runtimes:
        results.append(dict(run(runtime, context, [feed])[0][1][0].items()))
        choices = [node.selection(results[0][node.logits]) for node in context.routed]
        feed = forced_feed(case, context.routed, choices)
    return results


def _where(healthy: TracedNode | None) -> str:
    if healthy is None:
        return "before any hsm operator agrees:"
    return f"up to {healthy.name} ({healthy.operator}) the numbers agree,"
