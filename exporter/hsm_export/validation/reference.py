"""The bar that every runtime has to meet: the arbiter's numbers and the tolerance around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..onnx_model.model_file import ModelFile
from ..runtimes.routing import LOGITS_SUFFIX
from .cases import Case
from .measures import largest, measure, tolerance

Array = NDArray[Any]


@dataclass(frozen=True)
class Bar:
    """What one output must be in one case.

    Attributes:
        reference: the arbiter's numbers.
        comparable: the elements that are specified, and finite both in the arbiter and in native precision.
        native_error: largest absolute error of the baseline.
        tolerance: largest absolute error allowed.
        problem: why the case proves nothing, None when it does: the arbiter or native precision is not finite where
            it ought to be.
    """

    reference: Array
    comparable: NDArray[np.bool_]
    native_error: float
    tolerance: float
    problem: str | None = None


def bars(
    file: ModelFile,
    cases: Sequence[Case],
    arbiter: Sequence[Mapping[str, Array]],
    natives: Sequence[Sequence[Mapping[str, Array]]],
    exact: Sequence[Mapping[str, Array]] | None = None,
) -> list[dict[str, Bar]]:
    """Return, per case, the bar of every output.

    Native precision's error varies by luck between cases, most of all where an output has few elements. So what
    counts is the largest error of all ordinary cases, absolute or relative to the largest number, whichever is more.
    The logits of the expert operators share their relative one: there may be dozens, each with few numbers.

    Args:
        file: the model, for the names of dynamic dimensions.
        cases: the inputs.
        arbiter: the arbiter's outputs per case.
        natives: the baseline's outputs per case, with the arbiter's experts prescribed; one sequence for each way to
            compute them.
        exact: float64 outputs per case that the native error is measured against, where the arbiter is none: numbers
            from a file, or another runtime, may be what is wrong, and must not widen their own tolerance.
    """
    by_case = list(zip(*natives, strict=True))
    exact = arbiter if exact is None else exact
    raw = [_measured(file, case, arbiter[i], by_case[i], exact[i]) for i, case in enumerate(cases)]
    absolute: dict[str, float] = {}
    relative: dict[str, float] = {}
    for case, outputs in zip(cases, raw, strict=True):
        for name, (reference, comparable, error) in outputs.items():
            scale = largest(reference, comparable)
            if case.ordinary and scale > 0:
                absolute[name] = max(absolute.get(name, 0.0), error)
                relative[_kind(name)] = max(relative.get(_kind(name), 0.0), error / scale)

    def bar(index: int, name: str) -> Bar:
        reference, comparable, error = raw[index][name]
        error = max(error, relative.get(_kind(name), 0.0) * largest(reference, comparable))
        if cases[index].ordinary:
            error = max(error, absolute.get(name, 0.0))
        allowed = tolerance(error, reference, comparable, file.precision)
        problem = _problem(file, cases[index], reference, [native[name] for native in by_case[index]])
        return Bar(reference, comparable, error, allowed, problem)

    return [{name: bar(index, name) for name in outputs} for index, outputs in enumerate(raw)]


def _kind(output: str) -> str:
    """Return what an output shares its typical native error with."""
    return LOGITS_SUFFIX if output.endswith(LOGITS_SUFFIX) else output


def _measured(
    file: ModelFile,
    case: Case,
    arbiter: Mapping[str, Array],
    natives: Sequence[Mapping[str, Array]],
    exact: Mapping[str, Array],
) -> dict[str, tuple[Array, NDArray[np.bool_], float]]:
    """Return reference, comparable elements and native error per output."""
    result = {}
    for name, numbers in arbiter.items():
        reference = np.asarray(numbers, np.float64)
        values = [np.asarray(native[name]) for native in natives]
        for value in values:
            if value.shape != reference.shape:
                raise ValueError(
                    f"output {name} has shape {value.shape} in one evaluator, {reference.shape} in the arbiter"
                )
        comparable = np.isfinite(reference) & _specified(file, case, name, reference.shape)
        for value in values:
            comparable &= np.isfinite(value)
        right = np.asarray(exact[name], np.float64)
        error = max(measure(value, right, comparable & np.isfinite(right)).max_abs for value in values)
        result[name] = (reference, comparable, error)
    return result


def _problem(file: ModelFile, case: Case, reference: Array, natives: Sequence[Array]) -> str | None:
    """Say why a case proves nothing about an output, None when it does."""
    if case.ordinary and not np.isfinite(reference).all():
        return "is NaN or infinite even in float64: the weights or the inputs are broken"
    if case.ordinary and not all(np.isfinite(native).all() for native in natives):
        return f"is NaN or infinite in {file.precision} by itself: the model's numbers overflow that type"
    return None


def _specified(file: ModelFile, case: Case, output: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which elements of an output mean something: not those of tokens beyond a row's length."""
    specified = np.ones(shape, dtype=bool)
    lengths = case.feed.get("lengths")
    if lengths is None or len(shape) < 2 or not _per_token(file, output):
        return specified
    valid = np.arange(shape[1])[None, :] < lengths[:, None]
    return specified & valid.reshape(valid.shape + (1,) * (len(shape) - 2))


def _per_token(file: ModelFile, output: str) -> bool:
    """Say whether an output's second dimension is the sequence that the lengths input counts."""
    inputs = [spec for spec in file.inputs if not spec.name.startswith("past.")]
    tokens = {spec.shape[1] for spec in inputs if len(spec.shape) > 1 and isinstance(spec.shape[1], str)}
    for value in file.model.graph.output:
        dims = value.type.tensor_type.shape.dim
        if value.name == output and len(dims) > 1:
            return dims[1].dim_param in tokens
    return False
