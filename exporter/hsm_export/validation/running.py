"""Run a runtime over all cases with Polygraphy, free and with the arbiter's experts prescribed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.result import describe_shapes
from ..errors import first_line
from ..runtimes.metadata import with_ranks
from ..runtimes.randomness import open_modes
from ..runtimes.routing import RoutedNode
from ..runtimes.runtime import RunContext, Runtime
from .cases import Case

FREE, FORCED = "free", "forced"


@dataclass(frozen=True)
class Iteration:
    """One run: a case, and whether the runtime chose the experts itself."""

    case: int
    mode: str


def iterations(cases: Sequence[Case], routed: Sequence[RoutedNode]) -> list[Iteration]:
    """Return the runs of a runtime; the forced ones come first, because they measure the router's error."""
    modes = (FORCED, FREE) if routed else (FREE,)
    return [Iteration(case, mode) for mode in modes for case in range(len(cases))]


def free_feed(case: Case, routed: Sequence[RoutedNode]) -> dict[str, NDArray[Any]]:
    """Return the inputs of a run in which the runtime chooses the experts."""
    return {**case.feed, **{node.mask: node.free_mask() for node in routed}}


def forced_feed(
    case: Case, routed: Sequence[RoutedNode], selections: Sequence[NDArray[np.bool_]]
) -> dict[str, NDArray[Any]]:
    """Return the inputs of a run with prescribed experts, one mask (B,T,H,E) per expert operator."""
    return {**case.feed, **{node.mask: mask for node, mask in zip(routed, selections, strict=True)}}


def run(runtime: Runtime, context: RunContext, feeds: Sequence[dict[str, NDArray[Any]]]) -> Any:
    """Run a runtime over feeds and return Polygraphy's RunResults.

    Whatever the runtime raises comes through; its memory is released before this returns.
    """
    from polygraphy.comparator import Comparator
    from polygraphy.util import array

    if "torch" not in sys.modules:
        array.torch = _LOADED_TORCH
    with quiet():
        return Comparator.run([runtime.runner(with_ranks(context, feeds[0]))], data_loader=list(feeds))


def rounded_runs(
    exact: Runtime, contexts: Sequence[RunContext], feeds: Sequence[dict[str, NDArray[Any]]]
) -> Iterator[list[dict[str, Any]]]:
    """Yield, per context, the outputs of every feed with every tensor rounded at random in another way.

    A session of ONNX Runtime draws anew in each of its runs, so that one serves all contexts; onnx's evaluator does
    not.

    Args:
        exact: the runtime that computes in float64.
        contexts: of `planning.rounding_contexts`.
        feeds: the inputs.
    """
    from ..runtimes.onnx64 import EVALUATED

    count = len(feeds)
    if exact.name == "onnx64" and EVALUATED not in contexts[0].remarks:
        outputs = [dict(item.items()) for item in run(exact, contexts[0], [*feeds] * len(contexts))[0][1]]
        if EVALUATED not in contexts[0].remarks:
            yield from (outputs[start : start + count] for start in range(0, len(outputs), count))
            return
    for context in contexts:
        yield [dict(item.items()) for item in run(exact, context, feeds)[0][1]]


class _LoadedTorch:
    """PyTorch where something has loaded it, for Polygraphy, which would load it to ask what is one of its tensors."""

    def is_installed(self) -> bool:
        return "torch" in sys.modules

    is_importable = is_installed

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules["torch"], name)


_LOADED_TORCH = _LoadedTorch()


def training_modes(context: RunContext, feeds: Sequence[dict[str, NDArray[Any]]]) -> dict[str, bool]:
    """Return which of the model's `open_modes` one of the inputs switches on; the file in float64 computes others."""
    from onnx import ModelProto, TensorProto, helper

    from ..runtimes import get

    names = open_modes(context.model)
    found = {name: any(np.any(feed[name]) for feed in feeds) for name in names if name in feeds[0]}
    computed = {name: f"{name}/mode" for name in names if name not in found}
    if computed:
        model = ModelProto()
        model.CopyFrom(context.model)
        for name, shown in computed.items():
            model.graph.node.append(helper.make_node("Identity", [name], [shown]))
            model.graph.output.append(helper.make_tensor_value_info(shown, TensorProto.BOOL, None))
        outputs = run(get("onnx64"), replace(context, model=model, source=None), feeds)[0][1]
        found |= {name: any(np.any(item[shown]) for item in outputs) for name, shown in computed.items()}
    return found


def taken(runtime: Runtime, context: RunContext, cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """Return the cases that a runtime runs, and the others with the reason why it does not.

    The runtime is started anew after a failure, which may have left anything behind.
    """
    kept, refused = [], []
    for case in cases:
        try:
            run(runtime, context, [free_feed(case, context.routed)])
        except Exception as error:  # the user's code raises what it likes
            shapes = describe_shapes(case.shapes)
            refused.append(f"{case.name} ({shapes}): {first_line(error)}")
        else:
            kept.append(case)
    return kept, refused


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Polygraphy's log, which goes to stdout, and its statistics' complaints about NaN off the results."""
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1), np.errstate(all="ignore"):
        yield
