"""What every runtime is held to: the arbiter's numbers, and the tolerances that they leave."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..comparison.bar import NO_NUMBER
from ..comparison.result import describe_shapes
from ..errors import BadInputError, HsmExportError, first_line

if TYPE_CHECKING:
    from ..comparison.bar import Bar
    from ..onnx_model.model_file import ModelFile
    from ..runtimes.runtime import RunContext, Runtime
    from ..torch_model.torch_source import TorchSource
    from .cases import Case
    from .planning import Plan
    from .results import Comparison, RuntimeReport
    from .running import Iteration

Progress = Callable[[str], None]
# How many refused cases a note names.
_NAMED = 5
EXACT = ("torch64", "torch32", "onnx64")


@dataclass(frozen=True)
class Truth:
    """What every runtime is held to.

    Attributes:
        arbiter: Polygraphy's results of the arbiter, one an iteration.
        feeds: the inputs of each iteration.
        natives: results of the baseline, one for each of its ways to evaluate the model.
        bars: per case, what every output must be.
        iterations: which case each run is, and who chooses the experts in it.
        plan: who played which part in the end.
        problems: why the numbers prove nothing; empty when they do.
        unjudged: why the arbiter judges nothing; empty when it does.
        cases: the inputs that the arbiter takes.
        notes: what is to know of the others.
        doubts: where native precision errs by more than it explains; its numbers widen no tolerance there.
    """

    arbiter: Any
    feeds: list[dict[str, Any]]
    natives: list[Any]
    bars: list[dict[str, Bar]]
    iterations: list[Iteration]
    plan: Plan
    problems: tuple[str, ...]
    cases: tuple[Case, ...]
    notes: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()


class Measurement:
    """Runs arbiter and baseline of one validation."""

    def __init__(
        self,
        file: ModelFile,
        source: TorchSource | None,
        context: RunContext,
        cases: list[Case],
        plan: Plan,
        progress: Progress,
    ) -> None:
        from .running import iterations

        self._file = file
        self._source = source
        self._context = context
        self._cases = cases
        self._plan = plan
        self._progress = progress
        self._iterations = iterations(cases, context.routed)
        self._notes: list[str] = []
        self._problems: list[str] = []
        self._no_native: str | None = None
        self._failures: list[Comparison] = []
        self._doubts: dict[str, str] = {}
        self._unjudged: list[str] = []
        self._judged: list[RuntimeReport] = []
        self._rounded_more: set[str] = set()  # cases whose tolerances more random roundings have widened

    def truth(self) -> Truth:
        """Run arbiter and baseline, and derive the tolerances."""
        arbiter, feeds = self._run_arbiter()
        natives = self._run_baseline(feeds)
        bars = self._bars(arbiter, natives, feeds)
        problems, doubts, unjudged = tuple(self._problems), tuple(self._doubts.values()), tuple(self._unjudged)
        self._notes += self._unentered(feeds)
        known = tuple(self._cases), tuple(self._notes)
        return Truth(arbiter, feeds, natives, bars, self._iterations, self._plan, problems, *known, doubts, unjudged)

    def _unentered(self, feeds: list[dict[str, Any]]) -> list[str]:
        """Return a note on the branches and bodies that no case enters."""
        from .taken_path import unentered

        return unentered(self._context, feeds[: len(self._cases)])

    def _run_arbiter(self) -> tuple[Any, list[dict[str, Any]]]:
        """Return the arbiter's results per iteration, and the inputs of every runtime's iterations."""
        from polygraphy.comparator import RunResults

        from .running import FREE, forced_feed, free_feed, run

        routed = self._context.routed
        self._progress(f"running {self._plan.arbiter.name}, the arbiter")
        free = [free_feed(case, routed) for case in self._cases]
        try:
            *outputs, again = run(self._plan.arbiter, self._context, [*free, free[0]])[0][1]
        except Exception as error:
            self._leave_out_refused(error)
            return self._run_arbiter()
        self._unjudged += self._randomness(dict(outputs[0].items()), dict(again.items()), free)
        choices = [[node.selection(output[node.logits]) for node in routed] for output in outputs]
        forced = [forced_feed(case, routed, choice) for case, choice in zip(self._cases, choices, strict=True)]
        feeds = [(free if item.mode == FREE else forced)[item.case] for item in self._iterations]
        repeated = RunResults()
        repeated.append((self._plan.arbiter.name, [outputs[item.case] for item in self._iterations]))
        return repeated, feeds

    def _leave_out_refused(self, error: Exception) -> None:
        """Keep the cases that the arbiter takes; PyTorch in float32 is the arbiter where float64 runs none of them.

        Raises:
            BadInputError: none is left.
        """
        from .running import iterations, taken

        if isinstance(error, HsmExportError):
            raise error
        if len(self._cases) < 2:
            raise unusable(self._plan.arbiter, error) from error
        kept, refused = taken(self._plan.arbiter, self._context, self._cases)
        if not kept and self._plan.arbiter.name == "torch64":
            from ..runtimes.torch_module import TORCH32

            narrow, others = taken(TORCH32, self._context, self._cases)
            if narrow:
                self._notes.append(f"PyTorch runs the model in no float64, so float32 judges: {refused[0]}")
                self._plan, kept, refused = replace(self._plan, arbiter=TORCH32), narrow, others
        if not kept:
            raise BadInputError(
                f"{self._plan.arbiter.name} takes none of the {len(self._cases)} cases: {refused[0]}",
                "is this the model that the file was exported from? If so, give sizes or inputs that it takes "
                "(--shape, --inputs)",
            ) from error
        more = [f"and {len(refused) - _NAMED} more"] if len(refused) > _NAMED else []
        if refused:
            self._notes.append(f"cases that the model refuses were left out: {'; '.join([*refused[:_NAMED], *more])}")
        self._cases = kept
        self._iterations = iterations(kept, self._context.routed)

    def _randomness(self, first: dict[str, Any], again: dict[str, Any], feeds: list[dict[str, Any]]) -> list[str]:
        """Say why the arbiter judges nothing: it gives two results for the same inputs, or the file does by design."""
        from ..comparison.error import distance, largest
        from ..runtimes.randomness import SAME, random_nodes, watch_random
        from .running import run, training_modes

        drawing = random_nodes(self._context.model, training_modes(self._context, feeds))
        if drawing:
            more = f" and {len(drawing) - 1} more" if len(drawing) > 1 else ""
            return [f"the file draws random numbers at {drawing[0]}{more}"]
        changed = [name for name, array in first.items() if distance(again[name], array) > SAME * largest(array)]
        if not changed:
            return []
        where = ""
        if self._plan.arbiter.needs_source:
            with watch_random() as lines:
                run(self._plan.arbiter, self._context, feeds[:1])
            where = f": it draws random numbers at {lines[0]}" if lines else ""
        return [f"{self._plan.arbiter.name} gives two results for the same inputs in {changed[0]}{where}"]

    def _run_baseline(self, feeds: list[dict[str, Any]]) -> list[Any]:
        """Run the baseline in each of its ways to evaluate the model.

        Where PyTorch cannot run the model in this precision, onnx's evaluator takes its part; where that cannot, nobody
        does.
        """
        from .planning import baseline_contexts
        from .running import run

        baseline = self._plan.baseline
        self._progress(f"running {baseline.name}, the baseline")
        try:
            contexts = baseline_contexts(baseline, self._context, self._file)
            return [run(baseline, context, feeds) for context in contexts]
        except Exception as error:
            if not baseline.needs_source and not isinstance(error, HsmExportError):
                # The arbiter ran it. Without a native error, what rounding explains is all that is allowed.
                self._context.remarks.add(
                    f"{baseline.name} cannot run the file ({first_line(error)}): tolerances are what rounding explains"
                )
                return []
            if not baseline.needs_source or self._file.precision == "fp32":
                raise unusable(baseline, error) from error
            self._no_native = (
                f"PyTorch cannot run the model in {self._file.precision} ({first_line(error)}): native error is that "
                "of onnx's reference evaluator"
            )
        substitute = self._evaluator()
        others = tuple(runtime for runtime in self._plan.candidates if runtime.name != substitute.name)
        self._plan = replace(self._plan, baseline=substitute, candidates=others)
        return self._run_baseline(feeds)

    def _evaluator(self) -> Runtime:
        """Return what takes PyTorch's part where that cannot run the model."""
        from ..runtimes import get

        return get("onnx-reference")

    def _exact(self, feeds: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """Return float64 outputs per case where the arbiter is none; the native error is measured against them."""
        from ..runtimes import get
        from .running import run

        exact = get("torch64" if self._source is not None else "onnx64")
        if self._plan.arbiter.name in EXACT:
            return None
        self._progress(f"running {exact.name}")
        try:
            outputs = run(exact, self._context, feeds[: len(self._cases)])[0][1]
        except Exception as error:
            raise unusable(exact, error) from error
        return [dict(output.items()) for output in outputs]

    def _rounded(self, feeds: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """Return, per random choice, the float64 outputs of every case with every tensor rounded: the condition."""
        return self._roundings(feeds[: len(self._cases)])

    def _roundings(self, feeds: list[dict[str, Any]], *, more: bool = False) -> list[list[dict[str, Any]]]:
        """Return what random roundings make of some inputs; `more` are those that come after the first few."""
        from ..runtimes import get
        from .planning import rounding_contexts
        from .running import rounded_runs

        exact = self._plan.arbiter
        if exact.name not in EXACT:
            exact = get("torch64" if self._source is not None else "onnx64")
        self._progress(f"rounding at random in {exact.name}")
        found = []
        with contextlib.suppress(Exception):  # native error and the floor remain
            for outputs in rounded_runs(exact, rounding_contexts(self._context, self._file, more=more), feeds):
                found.append(outputs)
        return found

    def _bars(self, arbiter: Any, natives: list[Any], feeds: list[dict[str, Any]]) -> list[dict[str, Bar]]:
        """Derive the tolerances; the first iterations are those with the arbiter's experts, where there are any."""
        from .reference import bars

        count = len(self._cases)
        outputs = [[dict(item.items()) for item in results[0][1][:count]] for results in (arbiter, *natives)]
        exact, rounded, by = self._exact(feeds), self._rounded(feeds), self._plan.baseline.name
        try:
            derived = bars(self._file, self._cases, outputs[0], outputs[1:], exact, rounded, by)
        except ValueError as error:
            if self._plan.baseline.needs_source or self._plan.arbiter.name not in EXACT:
                raise unusable(self._plan.arbiter, error) from error
            natives.clear()
            self._context.remarks.add(f"{by} errs ({error}): tolerances are what rounding explains")
            derived = bars(self._file, self._cases, outputs[0], [], exact, rounded, by)
        degenerate = self._degenerate(derived)
        for case, of_case in zip(self._cases, derived, strict=True):
            for name, bar in of_case.items():
                shapes = describe_shapes(case.shapes)
                if bar.problem == NO_NUMBER and name in degenerate:
                    self._context.remarks.add(f"the model's own {name} is NaN for inputs {shapes}, and has to be")
                    continue
                where = f"(input {shapes}; case {case.name!r})"
                if bar.problem:
                    self._problems.append(f"{by}: output {name} {bar.problem} {where}")
                if bar.doubt and name not in self._doubts:
                    self._doubts[name] = f"{by}: output {name} {bar.doubt} {where}"
        return derived

    def _degenerate(self, bars: list[dict[str, Bar]]) -> set[str]:
        """Return the outputs that are NaN in cases with a dimension of size 1 alone, as a deviation of one number."""

        def single(case: Case) -> bool:
            return any(1 in shape for shape in case.shapes.values())

        pairs = list(zip(self._cases, bars, strict=True))
        names = {name for _, of_case in pairs for name, bar in of_case.items() if bar.problem == NO_NUMBER}
        return {
            name
            for name in names
            if all(single(case) == (of_case[name].problem == NO_NUMBER) for case, of_case in pairs if case.ordinary)
            and any(not single(case) for case, _ in pairs if case.ordinary)
        }


def unusable(runtime: Runtime, error: Exception) -> HsmExportError:
    """Return the error that says that a runtime cannot run what it was given."""
    if isinstance(error, HsmExportError):
        return error
    return BadInputError(
        f"{runtime.name} cannot run these inputs: {first_line(error)}",
        "is this the checkpoint that the file was exported from, and are the inputs what the model takes?"
        if runtime.needs_source
        else "are the inputs what the model takes? `hsm-export diff --reference` compares with another runtime",
    )
