"""How far outputs may be from the definition: what the type and the numbers make of it, and no constant.

An implementation may be off by twice what PyTorch's function of the same type is, also with element-wise functions that
are 2 units in the last place off (see `approximating`); by twice what inputs that are one unit off do to the definition
itself, as where large terms cancel; or by 4 units in the last place of the largest number. PyTorch's function may be
off by 16 such units, since it sums in float32 and rounds at the end, or by what the inputs explain. Where it is further
off, its formula loses digits: that is a finding of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ..registry import register_torch_operators
from ..translation import overload_of
from .implementations import NUMPY_TYPES, run_approximately, run_torch
from .subject import Array, Subject
from .trial import Trial

LEAST_UNITS = 4.0
TORCH_UNITS = 16.0
_DISTURBED = 3


def rounded(subject: Subject, inputs: Mapping[str, Array], dtype: str) -> dict[str, Array]:
    """Round the inputs of type T to `dtype`, and other floats to float32; all floats come back as float64."""
    result: dict[str, Array] = {}
    for port in subject.operator.inputs:
        array = np.asarray(inputs[port.name])
        if array.dtype.kind == "f":
            kind = NUMPY_TYPES[dtype] if port.type == "T" else np.float32
            array = array.astype(kind).astype(np.float64)
        result[port.name] = array
    return result


@dataclass(frozen=True)
class Judge:
    """The definition's numbers for some inputs, and what implementations are allowed.

    Attributes:
        subject: the operator.
        inputs: several draws, of which PyTorch's largest error counts: that of a few numbers alone is luck.
        truths: the outputs in float64 of each draw.
        units: the unit in the last place of each output's largest number, of each draw.
        allowed: the error that each output may have, in units.
        torch: PyTorch's own largest error of each output, in units; 0 where it has no function.
        torch_allowed: the error that PyTorch's function may have, in units.
    """

    subject: Subject
    inputs: Sequence[Mapping[str, Array]]
    truths: Sequence[Sequence[Array]]
    units: Sequence[Sequence[float]]
    allowed: Sequence[float]
    torch: Sequence[float]
    torch_allowed: Sequence[float]

    def errors(self, draw: int, outputs: Sequence[Array]) -> list[float]:
        """Return the largest error of each output of a draw, in units; infinite where a number is NaN.

        Raises:
            AssertionError: an output has another shape.
        """
        triples = zip(outputs, self.truths[draw], self.units[draw], strict=True)
        return [error_of(output, truth) / unit for output, truth, unit in triples]


def judge_of(trial: Trial, dtype: str, draws: Sequence[Mapping[str, Array]]) -> Judge:
    """Return the judge of implementations on inputs that are rounded to `dtype` here.

    Args:
        trial: the operator and its attributes.
        dtype: the type T.
        draws: several sets of inputs in float64.
    """
    subject, operator = trial.subject, trial.subject.operator
    inputs = [rounded(subject, draw, dtype) for draw in draws]
    truths = [subject.truth(draw, trial.attributes) for draw in inputs]
    units = [[unit_of(port.type, dtype, t) for port, t in zip(operator.outputs, ts, strict=True)] for ts in truths]
    register_torch_operators()
    count = len(operator.outputs)
    plain = Judge(subject, inputs, truths, units, (), (), ())
    torch, others, condition = [0.0] * count, [0.0] * count, [0.0] * count
    # Of empty tensors there is nothing to measure, and a function may not take them.
    for draw, arrays in enumerate(inputs if 0 not in trial.sizes.values() else ()):
        for seed in range(_DISTURBED):
            condition = _larger(condition, plain.errors(draw, _disturbed(trial, arrays, seed)))
        if overload_of(operator) is not None:
            own, *more = [plain.errors(draw, outputs) for outputs in _native(trial, arrays, dtype, draw)]
            torch = _larger(torch, own)
            for errors in more:
                others = _larger(others, errors)
    condition = [2 * error for error in condition]  # a few disturbances are not the worst ones
    allowed = [max(LEAST_UNITS, 2 * a, 2 * b, c) for a, b, c in zip(torch, others, condition, strict=True)]
    return Judge(subject, inputs, truths, units, allowed, torch, _larger([TORCH_UNITS] * count, condition))


def _larger(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [max(pair) for pair in zip(one, other, strict=True)]


def _disturbed(trial: Trial, inputs: Mapping[str, Array], seed: int) -> list[Array]:
    """Return the definition's outputs for inputs that are up to one unit of float32 off."""
    rng = np.random.default_rng(seed)
    if trial.subject.spread is not None:
        inputs = trial.subject.spread(inputs)
    eps = np.finfo(np.float32).eps
    moved = {
        name: array * (1 + eps * rng.uniform(-1, 1, array.shape)) if array.dtype.kind == "f" else array
        for name, array in inputs.items()
    }
    return trial.subject.truth(moved, trial.attributes)


def _native(trial: Trial, inputs: Mapping[str, Array], dtype: str, seed: int) -> Iterator[list[Array]]:
    """Yield what PyTorch computes in the type under test: plainly, as the body does, and with functions that are off.

    Where the result is much smaller than its terms, the form of the body loses digits that another form keeps.
    """
    operator, attributes = trial.subject.operator, trial.attributes
    yield run_torch(operator, inputs, attributes, dtype)
    if operator.evaluations:
        body = {name: values[0] for name, values in operator.evaluations.items()}
        yield run_torch(operator, inputs, attributes, dtype, **body)
    approximate = run_approximately(operator, inputs, attributes, dtype, seed)
    if approximate is not None:
        yield approximate


def unit_of(port_type: str, dtype: str, truth: Array) -> float:
    """Return the unit in the last place of an output's largest number; 1 when all are 0."""
    kind = dtype if port_type == "T" else "fp32"
    return float(ml_dtypes.finfo(NUMPY_TYPES[kind]).eps) * float(np.nanmax(np.abs(truth), initial=0)) or 1.0


def error_of(actual: Array, reference: Array) -> float:
    """Return the largest absolute error where the definition says anything; a NaN there is infinitely wrong."""
    assert actual.shape == reference.shape, f"the shape {actual.shape} instead of {reference.shape}"
    defined = ~np.isnan(reference)
    difference = np.abs(actual[defined].astype(np.float64) - reference[defined])
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0))
