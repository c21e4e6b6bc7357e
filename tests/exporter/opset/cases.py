"""Inputs for each operator, and the comparison of its three implementations with the float64 definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import le
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from tests.exporter.opset.harness import (
    NUMPY_TYPES,
    Attributes,
    float32_border,
    one_node_model,
    rounded,
    run_onnx_runtime,
    run_reference,
    run_torch,
)
from tests.operators.inputs import drawn, is_token, sizes_of

from hsm_operators import OPERATORS
from tests import oracles

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One operator with sizes of its dimensions, attributes and per-row integers.

    Attributes:
        name: the operator.
        sizes: by the names of the signature; the family's small case has those that are left out, and the rules those
            that follow from others.
        attributes: its attributes.
        rows: `position` and `lengths`, B integers each, where the operator has them.
        fill: for inputs of this name, a constant in place of random numbers.
    """

    name: str
    sizes: Mapping[str, int]
    attributes: Attributes
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    fill: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [*self.sizes.items(), *self.attributes.items(), *self.rows.items(), *self.fill.items()]
        return " ".join(f"{key}={str(value).replace(' ', '')}" for key, value in parts)

    def inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        """Return fresh float64 inputs; a carried state is the state of some earlier tokens."""
        sizes = sizes_of(self.name, self.sizes, self.attributes)
        result = drawn(self.name, sizes, self.attributes, self.rows, rng)
        return result | {name: np.full_like(result[name], value) for name, value in self.fill.items()}

    def poisoned(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return inputs with NaN where the operator must not look: beyond a row's length, in unwritten ring slots."""
        operator = OPERATORS[self.name]
        result = {name: array.copy() for name, array in inputs.items()}
        for row, length in enumerate(self.rows.get("lengths", ())):
            for port in filter(is_token, operator.inputs):
                result[port.name][row, length:] = np.nan
        for row, position in enumerate(self.rows.get("position", ())):
            for state in operator.states:
                result[state.past][row, position:] = np.nan
        return result


def expected(case: Case, inputs: Mapping[str, Array]) -> list[Array]:
    """The float64 results; NaN where the operator promises nothing."""
    result = getattr(oracles, OPERATORS[case.name].torch_name)(**inputs, **case.attributes)
    return list(result) if isinstance(result, tuple) else [result]


# The bodies are the efficient form. Where the polynomial is much smaller than its terms (long vectors that are not
# normalised) it loses digits that the direct form keeps, so its measure is the same form in PyTorch.
_BODY_FORM = {"TaylorShift": {"form": "efficient"}, "TaylorShiftMasked": {"form": "efficient"}}


# A runtime takes a one-node model and its float64 inputs, and returns the outputs.
Runtime = Callable[[onnx.ModelProto, Mapping[str, Array]], list[Array]]
BODIES: dict[str, Runtime] = {"ONNX Runtime": run_onnx_runtime, "reference evaluator": run_reference}


def check(case: Case, dtype: str, rng: np.random.Generator) -> None:
    """Compare torch, ONNX Runtime and onnx's reference evaluator with the definition, on fresh inputs."""
    compare(case, dtype, [case.inputs(rng)], BODIES)


def compare(case: Case, dtype: str, draws: Sequence[Mapping[str, Array]], runtimes: Mapping[str, Runtime]) -> None:
    """Compare torch and runtimes with the definition.

    A runtime may be off by twice what native torch of the same type and form is, or by 4 units in the last place of the
    largest number; torch itself by 16 such units, since it sums in float32 and rounds at the end.

    Args:
        case: the operator with its sizes.
        dtype: the type T.
        draws: several inputs, of which torch's largest error counts: that of a few numbers alone is luck.
        runtimes: what is judged.
    """
    rounded_draws = [rounded(case.name, inputs, dtype) for inputs in draws]
    truths = [expected(case, inputs) for inputs in rounded_draws]
    model = float32_border(one_node_model(case.name, case.attributes, dtype))
    units = [[_unit(dtype, index, case.name, reference) for index, reference in enumerate(truth)] for truth in truths]
    allowed = [4.0] * len(truths[0])
    for options in ({}, _BODY_FORM.get(case.name, {})):
        for inputs, truth, unit in zip(rounded_draws, truths, units, strict=True):
            errors = _errors(run_torch(case.name, case.attributes, inputs, dtype, **options), truth, unit)
            assert options or max(errors) <= 16, f"torch: {errors} units"
            allowed = [max(bar, 2 * error) for bar, error in zip(allowed, errors, strict=True)]
    for inputs, truth, unit in zip(rounded_draws, truths, units, strict=True):
        for runtime, run in runtimes.items():
            errors = _errors(run(model, inputs), truth, unit)
            assert all(map(le, errors, allowed)), f"{runtime}: {errors} units, allowed are {allowed}"


def _unit(dtype: str, output: int, name: str, reference: Array) -> float:
    """The unit in the last place of an output's largest number; 1 when all are 0."""
    kind = dtype if OPERATORS[name].outputs[output].type == "T" else "fp32"
    return float(ml_dtypes.finfo(NUMPY_TYPES[kind]).eps) * float(np.nanmax(np.abs(reference), initial=0)) or 1.0


def _errors(outputs: Sequence[Array], truth: Sequence[Array], units: Sequence[float]) -> list[float]:
    """The largest error of each output, in units."""
    return [_error(*pair) / unit for *pair, unit in zip(outputs, truth, units, strict=True)]


def _error(actual: Array, reference: Array) -> float:
    """Largest absolute error where the definition says anything; a NaN there is infinitely wrong."""
    assert actual.shape == reference.shape
    defined = ~np.isnan(reference)
    difference = np.abs(actual[defined].astype(np.float64) - reference[defined])
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0))
