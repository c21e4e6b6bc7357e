"""Find the nodes that must stay in float32 for a target error: the file that `export --precision-plan` obeys."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...errors import BadInputError, UsageError
from ...formats.precision_plan import LowPrecision, Measured, PlannedNode, PrecisionPlan
from ...machine import versions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...exporting.assembling import FloatGraph
    from ...exporting.source import Source
    from .search import PlanSearch
    from .trials import Trials

Progress = Callable[[str], None]
# (batch, length) of the random inputs; a classifier gives few numbers a row, so that it needs many rows.
_SEARCHED = {"language_model": ((2, 40), (3, 17)), "": ((24, 64), (24, 17))}
_FRESH = {"language_model": ((3, 29), (1, 64)), "": ((32, 49), (24, 64))}


def plan_precision(
    source: str | Path | nn.Module,
    precision: str,
    target_error: float | None = None,
    cases: Sequence[Mapping[str, Any]] | None = None,
    *,
    example_inputs: Any = None,
    progress: Progress | None = None,
) -> PrecisionPlan:
    """Search the cheapest set of nodes in float32 that keeps the error at a target; no node of it can be left out.

    Every set that is considered is converted as an export would, and run in ONNX Runtime with every result rounded to
    the type that the file gives it, against PyTorch in float64. Where experts are routed, all sides take the arbiter's
    choice.

    Args:
        source: a checkpoint's path, `zoo:NAME`, or an nn.Module in float32.
        precision: "fp16" or "bf16".
        target_error: largest |output - PyTorch float64| allowed; None takes the error of the rule by operator type.
        cases: input name -> array, for each run of the search; None makes random inputs.
        example_inputs: for a module of your own, as for `export`.
        progress: is called with the name of each phase.

    Raises:
        UsageError: a precision without a choice, an impossible target, or inputs that do not fit the model.
        BadInputError: a model that cannot be exported, or PyTorch cannot run on the inputs.
        CheckpointError, ConfigError: a damaged or hostile checkpoint.
    """
    from ...exporting import PACKAGES
    from ...exporting.assembling import float_graph
    from ...exporting.source import resolve
    from .search import PlanSearch
    from .trials import Trials

    if precision not in ("fp16", "bf16"):
        raise UsageError(f"a precision plan is for fp16 or bf16, not for {precision!r}")
    if target_error is not None and not 0 < target_error < float("inf"):
        raise UsageError(f"the target error must be positive and finite, got {target_error}")
    progress = progress or (lambda phase: None)
    start = time.perf_counter()
    progress("tracing")
    resolved = resolve(source, example_inputs)
    graph = float_graph(resolved)
    runs = _random_runs(resolved, graph, 1, _SEARCHED) if cases is None else [_given(resolved, case) for case in cases]
    trials = Trials(resolved, graph, precision, runs, _random_runs(resolved, graph, 2, _FRESH))
    if not trials.references:
        raise BadInputError(f"PyTorch cannot run {resolved.name} on the inputs of the search")
    rule = trials.measure(trials.rule)
    costs = {name: cost.total for name, cost in trials.costs.items()}
    target = rule.largest if target_error is None else target_error
    search = PlanSearch(trials.measure, trials.candidates, costs, trials.rule, target, progress)
    names = search.run()
    progress("measuring the plan")
    measured = _measured(trials, {"low": (), "rule": trials.rule, "plan": names, "fp32": None})
    return PrecisionPlan(
        source=resolved.name,
        source_sha256=resolved.sha256,
        precision=cast(LowPrecision, precision),
        target=target,
        target_from="rule" if target_error is None else "given",
        nodes=tuple(_planned(trials, search, names, name) for name in names),
        candidates=len(trials.candidates),
        cases=tuple(_shapes(item.feeds) for item in trials.references),
        trials=search.trials + 1,
        seconds=time.perf_counter() - start,
        versions=versions(*PACKAGES),
        low=measured["low"],
        rule=measured["rule"],
        plan=measured["plan"],
        fp32=measured["fp32"],
    )


def _planned(trials: Trials, search: PlanSearch, names: Sequence[str], name: str) -> PlannedNode:
    """Describe a node of the plan; what happens without it was measured in the last pass of the search."""
    cost = trials.costs[name]
    without = search.measured([other for other in names if other != name])
    by_rule = name in trials.rule
    return PlannedNode(
        name, trials.operators[name], by_rule, cost.bytes, cost.flops, search.alone[name], without.largest
    )


def _measured(trials: Trials, choices: Mapping[str, Sequence[str] | None]) -> dict[str, Measured]:
    """Measure choices side by side; None stands for the float32 file."""
    models = {key: trials.model(names, "fp32" if names is None else None) for key, names in choices.items()}
    plain = {key: trials.session(model) for key, model in models.items()}
    times = trials.milliseconds(list(plain.values()))
    found = {}
    for (key, names), milliseconds in zip(choices.items(), times, strict=True):
        rounding = trials.rounding_session(models[key])
        error = trials.deviation(rounding, trials.references)
        found[key] = Measured(
            nodes=len(trials.candidates) if names is None else len(names),
            error=error.largest,
            rms=error.rms,
            fresh_error=trials.deviation(rounding, trials.fresh).largest,
            ort_error=trials.deviation(plain[key], trials.references).largest,
            milliseconds=milliseconds,
        )
    return found


def _random_runs(
    source: Source, graph: FloatGraph, seed: int, sizes: Mapping[str, Sequence[tuple[int, int]]]
) -> list[list[Tensor]]:
    """Return random inputs of a model's dynamic dimensions, within the bounds that it states."""
    import torch

    from ...exporting.inputs import LENGTH

    generator = torch.Generator().manual_seed(seed)
    runs = []
    for batch, length in sizes.get(source.task, sizes[""]):
        longest = _longest(source)
        length = min(length, longest) if longest else length
        run = []
        for spec, traced in zip(source.arguments.inputs, graph.inputs, strict=True):
            shape = [size if isinstance(size, int) else length if LENGTH in size else batch for size in traced.shape]
            if spec.counts is not None or spec.name == "lengths":
                run.append(torch.randint(1, length + 1, shape, generator=generator))
            elif spec.example.is_floating_point():
                run.append(torch.randn(shape, generator=generator))
            else:
                high = int(spec.example.max()) if spec.high is None else spec.high
                run.append(torch.randint(spec.low or 0, high + 1, shape, generator=generator).to(spec.example.dtype))
        runs.append(run)
    return runs


def _longest(source: Source) -> int | None:
    config = getattr(source.module, "config", None)
    return getattr(source.module, "max_length", None) or getattr(config, "max_length", None)


def _given(source: Source, case: Mapping[str, Any]) -> list[Tensor]:
    """Return a case of the user's as the tensors that the model takes.

    Raises:
        UsageError: its names are not those of the model's inputs.
    """
    import numpy as np
    import torch

    wanted = [spec.name for spec in source.arguments.inputs]
    if set(case) != set(wanted):
        raise UsageError(f"a case holds {', '.join(sorted(case))}; the inputs of {source.name} are {', '.join(wanted)}")
    return [
        torch.from_numpy(np.ascontiguousarray(case[spec.name])).to(spec.example.dtype)
        for spec in source.arguments.inputs
    ]


def _shapes(feeds: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {'×'.join(map(str, array.shape))}" for name, array in feeds.items())
