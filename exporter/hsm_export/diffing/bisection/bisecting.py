"""Swap two ways to run a file node by node, to find the smallest set of nodes that makes an output fail."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...comparison.error import distance
from ...errors import UsageError
from ...runtimes.runtime import RunContext
from ..layers.graph import LayerGraph
from ..results import Bisection
from .hybrid import Hybrid, way
from .search import CulpritSearch
from .segment import Segment
from .source import SOURCES, SourceWay
from .whole_graph import WholeGraph

Array = NDArray[Any]
# Writes nodes that fail together, and returns a sentence that says where.
Repro = Callable[[Segment], str]
_REPEATS = 3  # runs of the same choice that show the noise, and that decide where the noise could
_ABOVE_NOISE = 2.0
_ONLY_WHOLE = "only the whole graph is off"


def bisect(
    context: RunContext,
    good: str,
    bad: str,
    feed: Mapping[str, Array],
    *,
    output: str | None = None,
    reference: Array | None = None,
    tolerance: float | None = None,
    progress: Callable[[str], None] | None = None,
    whole: RunContext | None = None,
    repro: Repro | None = None,
) -> Bisection:
    """Find the smallest set of nodes that, run the bad way, makes an output fail.

    A way is a runtime that runs ONNX files, the file's precision (ONNX Runtime), or "fp32" or "fp64": the node's maths
    in float64 on the file's weights, its results not rounded to the file's type. The good one may also be "torch" or
    "torch64": the source's own modules and `hsm` operators in place of the nodes that were made from them.

    Args:
        context: what to run; its model may be instrumented for experts, the feed then holds their masks.
        good, bad: the two ways.
        feed: the graph's inputs.
        output: which output; None means the first one.
        reference: its right numbers; None takes those of the source, or of a run with every node the good way.
        tolerance: largest |output - reference| that passes; None takes half the error with every node the bad way.
        progress: receives the phase in words.
        whole: the same where its control flow has not been taken apart; None where there is none.
        repro: writes nodes that fail only together to disk, and says where; None writes none.

    Raises:
        UsageError: an unknown way or output, or one way twice.
        HsmExportError: a runtime cannot run one of the nodes on its own.
    """
    if good == bad:
        raise UsageError(f"bisecting needs two ways to run a node, got {good} twice")
    known = [value.name for value in context.model.graph.output]
    output = output or known[0]
    if output not in known:
        raise UsageError(f"there is no output {output!r}", f"outputs are {', '.join(known)}")
    progress = progress or (lambda phase: None)
    graph = LayerGraph(context.model)
    entire = WholeGraph(context if whole is None else whole, good, bad, feed, output)
    bad_way = way(bad, context.precision)
    if good not in SOURCES:
        with Hybrid(context, graph, way(good, context.precision), bad_way) as hybrid:
            names = good, bad
            return _Bisecting(hybrid, entire, names, feed, output, progress, repro).run(reference, tolerance)
    with SourceWay(context, good, graph, feed) as source:
        if reference is None:
            reference = source.outputs[output]
        for pieces in source.partitions():
            with Hybrid(context, graph, source, bad_way, pieces) as hybrid:
                found = _Bisecting(hybrid, entire, (good, bad), feed, output, progress).run(reference, tolerance)
            if found.nodes:
                break
        return found


class _Bisecting:
    """One bisection: everything that its steps share."""

    def __init__(
        self,
        hybrid: Hybrid,
        whole: WholeGraph,
        names: tuple[str, str],
        feed: Mapping[str, Array],
        output: str,
        progress: Callable[[str], None],
        repro: Repro | None = None,
    ) -> None:
        self._hybrid = hybrid
        self._whole = whole
        self._names = names
        self._feed = feed
        self._output = output
        self._progress = progress
        self._count = len(hybrid.nodes)
        self._noise = 0.0
        self._notes: list[str] = []
        self._repro = repro

    def run(self, reference: Array | None, tolerance: float | None) -> Bisection:
        good, bad = self._names
        self._progress(f"running every node with {good}, then with {bad}")
        right = self._repeated(())
        reference = right if reference is None else np.asarray(reference)
        wrong = self._repeated(range(self._count))
        passing, failing = distance(right, reference), distance(wrong, reference)
        unstable = self._unstable() if self._noise > 0 else ()
        # Where the bad side is not finite, only that counts.
        allowed = min(failing / 2, float(np.finfo(np.float64).max)) if tolerance is None else tolerance
        if self._noise > 0 and passing <= max(allowed, _ABOVE_NOISE * self._noise) < failing:
            allowed = max(allowed, _ABOVE_NOISE * self._noise)
        if unstable and self._noise > allowed >= passing:
            # One run passes and the next one does not: halving would follow chance.
            return self._result(unstable, max(failing, self._noise), allowed, None)
        reason = self._no_difference(passing, failing, allowed, reference)
        if reason is not None:
            together = self._together() if reason.startswith(_ONLY_WHOLE) else None
            return together or self._result((), failing, allowed, reason)

        def fails(positions: frozenset[int]) -> bool:
            return self._fails(positions, reference, allowed)

        self._progress(f"bisecting {self._count} nodes")
        found = CulpritSearch(fails, self._count, self._progress).run()
        error = distance(self._output_of(found), reference)
        self._confirm(found, reference, allowed)
        return self._result(found, error, allowed, None)

    def _fails(self, positions: Collection[int], reference: Array, allowed: float) -> bool:
        """Run once; as often as it takes to decide by majority where noise could decide otherwise."""
        errors = [distance(self._output_of(positions), reference)]
        while self._noise > 0 and len(errors) < _REPEATS and abs(errors[-1] - allowed) <= _ABOVE_NOISE * self._noise:
            errors.append(distance(self._output_of(positions), reference))
        return 2 * sum(error > allowed for error in errors) > len(errors)

    def _output_of(self, positions: Collection[int]) -> Array:
        return self._hybrid.run(self._feed, frozenset(positions))[self._output]

    def _repeated(self, positions: Collection[int]) -> Array:
        """Run the same choice several times and remember how far apart the results are."""
        first = self._output_of(positions)
        for _ in range(_REPEATS - 1):
            self._noise = max(self._noise, distance(self._output_of(positions), first))
        return first

    def _unstable(self) -> tuple[int, ...]:
        """Name the nodes that give two results for the same inputs; return those of the bad way."""
        found: tuple[int, ...] = ()
        for name, is_bad in zip(self._names, (False, True), strict=True):
            found = self._hybrid.unstable(self._feed, is_bad)
            nodes = [self._hybrid.nodes[position] for position in found]
            if nodes:
                listed = ", ".join(f"{node} ({operator})" for node, operator in nodes[:5])
                more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
                self._notes.append(f"{name} gives two results for the same inputs at {listed}{more}")
        return found

    def _no_difference(self, passing: float, failing: float, allowed: float, reference: Array) -> str | None:
        """Say why there is nothing to find; None when there is."""
        good, bad = self._names
        if not passing <= allowed:
            return f"every node run by {good} one by one, the output is off by {passing:.3g} already: no good side"
        if failing > allowed:
            return None
        if failing == 0.0 and self._whole.error(reference) == 0.0:
            return f"{good} and {bad} give the same numbers"
        whole = self._whole.error(reference)
        if whole is not None and whole > allowed:
            return (
                f"{_ONLY_WHOLE}, by {whole:.3g} in {bad}; its nodes one by one are not "
                f"({failing:.3g}): the fault is in what {bad} does across nodes, such as fusing or reordering them"
            )
        return f"every node run by {bad} one by one, the output is off by {failing:.3g} only: nothing to find"

    def _together(self) -> Bisection | None:
        """Return the smallest sub-graph that fails as a whole, none of whose nodes fails alone; None without one."""
        right, alone = (self._hybrid.tensors(self._feed, is_bad) for is_bad in (False, True))
        found = self._whole.segment(right, alone, self._progress)
        if found is None:
            return None
        self._notes.append("none of these nodes fails alone: they fail together, as one graph")
        if self._repro is not None:
            self._notes.append(self._repro(found))
        result = self._result((), found.error, found.allowed, None)
        return replace(result, nodes=found.nodes, runs=result.runs + found.runs)

    def _confirm(self, found: Collection[int], reference: Array, allowed: float) -> None:
        """Check the answer on whole graphs, where both ways are runtimes and only bodies are swapped."""
        nodes = [self._hybrid.nodes[position] for position in found]
        error = self._whole.error_with({name for name, _ in nodes}, reference)
        if error is None:
            return
        only, without = error
        if only > allowed >= without:
            self._notes.append(
                f"confirmed in whole graphs: off by {only:.3g} with these kernels alone, by {without:.3g} without them"
            )
        elif only > allowed:
            self._notes.append(
                f"confirmed in whole graphs: off by {only:.3g} with these kernels alone; without them it is off by "
                f"{without:.3g} still, so they are not the only ones at fault"
            )
        else:
            self._notes.append(
                f"not confirmed in whole graphs: off by {only:.3g} with these kernels alone, by {without:.3g} "
                "without them; what the runtime does across nodes plays a part"
            )

    def _result(self, found: Collection[int], error: float, allowed: float, reason: str | None) -> Bisection:
        good, bad = self._names
        return Bisection(
            good=good,
            bad=bad,
            nodes=tuple(self._hybrid.nodes[position] for position in found),
            runs=self._hybrid.runs,
            candidates=self._count,
            error=error,
            tolerance=allowed,
            noise=self._noise,
            reason=reason,
            notes=tuple(self._notes),
        )
