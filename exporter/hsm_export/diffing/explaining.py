"""Why runtimes differ: layers, bisection and generated text, for a diff whose outputs have been judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison.error import distance
from ..comparison.result import ComparedOutput
from ..errors import HsmExportError, first_line
from ..files import file_name
from ..runtimes import get
from ..validation.taken_path import taken_path
from .culprits import FILE, Culprits
from .layers.graph import LayerGraph
from .layers.layerwise import Comparison
from .layers.spool import Spool
from .layers.tapping import run_once, tap
from .quantised import split
from .remarks import quantum_of, remarks, told
from .reporting.words import times
from .repro import write_repro
from .results import LayerDiff, RuntimeDiff

if TYPE_CHECKING:
    from ..runtimes.runtime import RunContext, Runtime
    from .api import Diff
    from .bisection.segment import Segment
    from .layers.alignment import Unit

_LONG = 4096  # elements of the inputs: the layers' tensors are hundreds of times larger


class Explanation:
    """Explains the reports of a diff, and adds to them.

    Args:
        diff: the diff.
    """

    def __init__(self, diff: Diff) -> None:
        self._diff = diff
        self._context = diff.setup.context
        self._case = self._choose_case()
        self._paths: dict[int, RunContext] = {}

    @cached_property
    def _graph(self) -> LayerGraph:
        return LayerGraph(self._context.model)

    def _path(self, case: int) -> RunContext:
        """Return the context without the control flow that a case's inputs decide."""
        if case not in self._paths:
            self._diff.limits.check("taking control flow apart")
            self._paths[case] = taken_path(self._diff.setup.context, self._diff.truth.feeds[case])
        return self._paths[case]

    def _look_at(self, context: RunContext) -> None:
        self._context = context
        self.__dict__.pop("_graph", None)

    def _culprits(self) -> Culprits:
        return Culprits(self._diff, self._graph, self._context, self._lengths())

    def compare_layers(self) -> None:
        """Compare every layer of every runtime, then of the file with its source.

        Layers inside If, Loop and Scan are layers of their own. Where what differs is then not to be seen, the nodes
        that hold them are compared as wholes.
        """
        whole = self._context
        self._look_at(self._path(self._case))
        self._compare_layers(list(self._diff.reports))
        if self._context is whole:
            return
        unexplained = [name for name, item in self._diff.reports.items() if _fails(item) and item.culprit is None]
        if unexplained:
            self._look_at(whole)
            for name in unexplained:
                self._note(name, "no node inside its control flow is at fault by itself: it is compared as a whole")
            self._compare_layers(unexplained)

    def _compare_layers(self, names: Sequence[str]) -> None:
        """Compare every layer of some runtimes."""
        diff = self._diff
        diff.layer_case = diff.feeds.cases[self._case].name
        with TemporaryDirectory(prefix="hsm-diff-") as name:
            folder = Path(name)
            reference = self._tapped(get(FILE), _folder(folder, "reference"))
            spools = self._spools(folder, names)
            found: dict[str, list[LayerDiff]] = {runtime: [] for runtime in spools}
            if diff.setup.source is not None:
                found[FILE] = self._source_layers(folder)
            diff.progress("comparing layers")
            comparison = Comparison(self._graph, self._context, diff.layer_case, self._lengths())
            try:
                for _, items in comparison.layers(reference, spools, diff.limits):
                    for item in items:
                        found[item.runtime].append(item)
            finally:
                for runtime, items in found.items():
                    self._report(runtime, items, spools.get(runtime))
            for runtime, spool in spools.items():
                if diff.reports[runtime].noise:
                    again = self._tapped(get(runtime), _folder(folder, file_name(f"again {runtime}")))
                    self._culprits().name_unstable(runtime, spool, again)

    def bisect(self) -> None:
        """Find the smallest set of nodes that makes each failing runtime fail, the file itself first.

        The file is swapped with the modules and operators of its source. Where it is at fault, runtimes that keep to
        its maths have nothing to find, and the others are held to that maths.
        """
        reports = self._diff.reports
        names = [name for name, item in reports.items() if _fails(item) and not get(name).needs_source]
        is_file_wrong = FILE in names
        for name in sorted(names, key=lambda item: item != FILE):
            self._diff.limits.check(f"bisecting {name}")
            if name == FILE:
                if self._diff.setup.source is not None:
                    self._bisect("torch64", FILE, is_good_right=True)
            elif not is_file_wrong:
                self._bisect(self._good_way(name), name, is_good_right=True)
            elif reports[name].culprit is not None:
                self._bisect("fp64", name, is_good_right=False)
            else:
                self._diff.notes.append(f"{name} was not bisected: the file itself is at fault, and {name} keeps to it")

    def _bisect(self, good: str, bad: str, is_good_right: bool) -> None:
        """Bisect between two ways.

        Args:
            good, bad: the ways.
            is_good_right: whether the good way's output is the reference's; else it is its own reference.
        """
        from .bisection.bisecting import bisect

        diff = self._diff
        worst = self._first_failing(bad)
        case = self._case_of(worst.case)
        bar = diff.truth.bars[case][worst.output]
        right = np.where(bar.comparable, bar.reference, 0.0)
        try:
            found = bisect(
                self._path(case),
                good,
                bad,
                diff.truth.feeds[case],
                output=worst.output,
                reference=right if is_good_right and bar.comparable.all() else None,
                tolerance=worst.threshold.value,
                progress=diff.progress,
                whole=diff.setup.context,
                repro=lambda segment: self._segment_repro(bad, segment),
            )
        except HsmExportError as error:
            diff.notes.append(f"{bad} could not be bisected: {error.message}")
            return
        diff.bisections = (*diff.bisections, found)

    def _segment_repro(self, runtime: str, segment: Segment) -> str:
        """Write nodes that fail only together, where repros were asked for; return a sentence that says where."""
        folder = self._diff.options.repro
        if folder is None:
            return "--repro DIR writes them with their real inputs"
        name = file_name(f"{runtime}.{segment.nodes[0][0]}-{segment.nodes[-1][0]}")
        context = self._diff.setup.context
        path, command = write_repro(
            Path(folder), name, segment.model, context.folder, segment.inputs, segment.expected,
            precision=context.precision, runtime=runtime,
        )  # fmt: skip
        return f"written to {path}; run them alone: {command}"

    def _first_failing(self, name: str) -> ComparedOutput:
        """Return, of the case that fails worst, the output that comes first: its node is the first one at fault."""
        report = self._diff.reports[name]
        assert report.worst is not None
        failing = {item.output: item for item in report.outputs if item.case == report.worst.case and not item.passed}
        order = [value.name for value in self._context.model.graph.output]
        return min(failing.values(), key=lambda item: order.index(item.output))

    def generate(self, steps: int) -> None:
        """Generate greedily in every runtime of a language model, and see where the text parts."""
        from ..comparison.predictions import scored_output
        from .generating import PROMPT, generate, with_generation
        from .inputs.feeds import prompt_of

        diff = self._diff
        file, arbiter = diff.setup.file, diff.truth.plan.arbiter
        whole = file.decodes or file.tokens is not None
        if not whole or scored_output(file)[0] != "language_model" or arbiter.name == "stored":
            return
        prompt = prompt_of(diff.feeds, file, PROMPT)
        diff.progress(f"generating with {arbiter.name}")
        # The file as it is: what was laid out for the layers is of one case's lengths.
        context = diff.setup.context
        right = generate(file, arbiter, context, prompt, steps)
        for name, report in diff.reports.items():
            if report.language is None:
                continue
            diff.limits.check(f"generating with {name}")
            diff.progress(f"generating with {name}")
            own = generate(file, get(name), context, prompt, steps, until=right)
            diff.reports[name] = replace(report, language=with_generation(report.language, right, own))

    def _choose_case(self) -> int:
        """Return the case in which an output is furthest beyond its threshold, else a long ordinary one.

        That is the longest up to `_LONG`, or the shortest of longer ones: hundreds of pictures show no more than a few.
        """
        outputs = [item for report in self._diff.reports.values() for item in report.outputs]
        worst = max(outputs, key=lambda item: item.severity, default=None)
        if worst is not None and not worst.passed:
            return self._case_of(worst.case)
        cases = self._diff.feeds.cases
        sizes = {place: sum(array.size for array in case.feed.values()) for place, case in enumerate(cases)}
        ordinary = [place for place, case in enumerate(cases) if case.ordinary] or [0]
        fitting = [place for place in ordinary if sizes[place] <= _LONG]
        return max(fitting, key=sizes.__getitem__) if fitting else min(ordinary, key=sizes.__getitem__)

    def _case_of(self, name: str) -> int:
        names = [case.name for case in self._diff.feeds.cases]
        return next(index for index, known in enumerate(names) if name == known or name.startswith(f"{known}, its own"))

    def _feed(self) -> Mapping[str, Any]:
        """Return the inputs of the chosen case, with the reference's experts."""
        feed: Mapping[str, Any] = self._diff.truth.feeds[self._case]
        return feed

    def _lengths(self) -> Any:
        """Return the numbers of valid tokens in the chosen case; None where the file takes none."""
        return self._diff.setup.file.lengths_in(self._feed())

    def _spools(self, folder: Path, names: Sequence[str]) -> dict[str, Spool]:
        """Run every one of these runtimes that ran, one at a time, and spool its tensors."""
        spools: dict[str, Spool] = {}
        for place, name in enumerate(names):
            report = self._diff.reports[name]
            if report.verdict in ("failed", "skipped") or name == FILE:
                continue
            self._diff.progress(f"taking {name} apart")
            target = _folder(folder, f"runtime-{place}")
            try:
                spools[name] = self._source_spool(target) if get(name).needs_source else self._tapped(get(name), target)
            except HsmExportError:
                raise
            except Exception as error:
                self._note(name, f"its layers cannot be seen: {first_line(error)}")
                continue
            self._note_disturbance(name, spools[name])
        return spools

    def _tapped(self, runtime: Runtime, target: Path) -> Spool:
        spool = Spool(target)
        tap(runtime, self._context, self._graph, self._feed(), spool, self._diff.limits)
        return spool

    def _source_spool(self, target: Path) -> Spool:
        from .layers.alignment import record

        spool = Spool(target)
        record(self._context, self._context.precision, self._graph, self._feed(), spool)
        return spool

    def _note_disturbance(self, name: str, spool: Spool) -> None:
        """Say when exposing the tensors changes the outputs: the runtime then fuses nodes that it cannot now."""
        report = self._diff.reports[name]
        if report.noise or get(name).needs_source:
            return
        plain = run_once(get(name), self._diff.setup.context, self._feed())
        bars = self._diff.truth.bars[self._case]
        for key, array in plain.items():
            exposed = spool.read(key)
            gap = float("inf") if exposed is None else distance(exposed, array)
            if gap == 0.0:
                continue
            allowed = bars[key].threshold.value if key in bars else 0.0
            size = f"by {gap:.3g}, {times(gap / allowed)} what is allowed" if allowed else f"by {gap:.3g}"
            note = f"exposing its tensors changes {key} {size}{self._quantum(gap)}: the runtime joins nodes otherwise"
            self._note(name, note)

    def _quantum(self, gap: float) -> str:
        node = quantum_of(gap, self._graph, self._context.folder)
        return f", one quantum of {node}" if node else ""

    def remarks(self) -> list[str]:
        """Return what passed outputs do not say: how far rounding alone takes them."""
        folder, precision = self._context.folder, self._context.precision
        return remarks(self._diff.reports.values(), self._graph, folder, precision)

    def _note(self, name: str, note: str) -> None:
        report = self._diff.reports[name]
        self._diff.reports[name] = replace(report, notes=tuple(dict.fromkeys((*report.notes, note))))

    def _source_layers(self, folder: Path) -> list[LayerDiff]:
        """Hold the file's maths to the source's, unit by unit."""
        from .layers.alignment import record
        from .layers.source_check import SourceCheck, innermost

        diff = self._diff
        diff.progress("holding the file to its source")
        source = Spool(_folder(folder, "source"))
        native: list[Spool] = []

        def in_native_precision() -> Spool:
            if not native:
                native.append(self._source_spool(_folder(folder, "source-native")))
            return native[0]

        units = record(self._context, "fp64", self._graph, self._feed(), source)
        check = SourceCheck(self._graph, self._context, diff.layer_case, in_native_precision, self._lengths())
        layers = list(check.layers(units, source, diff.limits))
        if diff.setup.quantised is not None:
            layers, note = split(layers, diff.setup.quantised, self._weights_of(units))
            diff.notes.append(note)
        guilty = {id(item) for item in innermost(layers, units)}
        first = next((item for item in layers if id(item) in guilty), None)
        if first is not None:
            unit = next(unit for unit in units if (unit.name, unit.single) == (first.node, bool(first.domain)))
            expected = {name: source.read(unit.result(place)) for place, name in enumerate(unit.writes)}
            inputs = check.inputs_of(unit, source)
            self._culprits().name(FILE, first, unit.indices, len(guilty) - 1, inputs, expected)
        return layers

    def _weights_of(self, units: Iterable[Unit]) -> dict[str, set[str]]:
        """Return the names of what each unit's nodes read."""
        nodes = self._graph.model.graph.node
        return {unit.name: {name for index in unit.indices for name in nodes[index].input} for unit in units}

    def _report(self, name: str, layers: list[LayerDiff], spool: Spool | None) -> None:
        """Add the layers to a runtime's report, and name the first node at fault."""
        report, truth = self._diff.reports.get(name, RuntimeDiff(name, "same")), self._diff.truth
        harmless = report.verdict == "same" and not (truth.problems or truth.doubts)
        culprits = self._culprits()
        masks = [item for item in layers if culprits.is_mask(item, spool)]
        # Where nothing else is at fault, what overflows is what makes an output differ.
        others = [item for item in layers if not item.passed and item not in masks]
        masks = masks if harmless or others else []
        layers, remarks = told(layers, masks)
        self._diff.reports[name] = replace(report, layers=tuple(layers), notes=(*report.notes, *remarks))
        faulty = [item for item in layers if not item.passed]
        if name == FILE or not faulty or spool is None:
            return
        first = min(faulty, key=lambda item: item.index)
        layer = self._graph.layer_at[first.index]
        inputs = {key: spool.read(key, layer.index) for key in layer.inputs}
        expected = culprits.right_results(first.index, layer.outputs, inputs)
        culprits.name(name, first, (first.index,), len({item.index for item in faulty}) - 1, inputs, expected)

    def _good_way(self, bad: str) -> str:
        """Return a way that gives the right output: a runtime that passed, else the nodes' maths in float64."""
        reports = self._diff.reports
        for name in ("ort", "ort-fused"):
            if name != bad and name in reports and reports[name].verdict == "same":
                return name
        return "fp64"


def _fails(report: RuntimeDiff) -> bool:
    return report.verdict == "differs" and report.worst is not None and not report.worst.passed


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder
