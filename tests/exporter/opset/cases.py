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

from hsm_operators import OPERATORS
from tests import oracles

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One operator with sizes of its dimensions, attributes and per-row integers.

    Attributes:
        name: the operator.
        sizes: size of every dimension but F, by the names of the signature; values are as wide as keys (e = d) unless
            it has e.
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
        sizes = dict(self.sizes)
        if "d" in sizes:
            sizes["F"] = 1 + sizes["d"] + sizes["d"] * (sizes["d"] + 1) // 2
            sizes.setdefault("e", sizes["d"])
        result: dict[str, Array] = {}
        for value in OPERATORS[self.name].inputs:
            shape = [sizes[dim] for dim in value.shape]
            if value.type == "tensor(int64)":
                result[value.name] = np.asarray(self.rows[value.name])
            elif value.name in self.fill:
                result[value.name] = np.full(shape, self.fill[value.name])
            else:
                result[value.name] = rng.standard_normal(shape)
        if "state" in result:
            result.update(self._past(result, rng))
        return result

    def poisoned(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return inputs with NaN where the operator must not look: beyond a row's length, in unwritten ring slots."""
        result = {name: array.copy() for name, array in inputs.items()}
        for row, length in enumerate(self.rows.get("lengths", ())):
            for name in {"x", "q", "k", "v"} & set(result):
                result[name][row, length:] = np.nan
        for row, position in enumerate(self.rows.get("position", ())):
            result["ring"][row, position:] = np.nan
        return result

    def _past(self, inputs: Mapping[str, Array], rng: np.random.Generator) -> dict[str, Array]:
        """State and norm after five tokens."""
        q, k, v = (rng.standard_normal((inputs[name].shape[0], 5, *inputs[name].shape[2:])) for name in ("q", "k", "v"))
        zero = [np.zeros_like(inputs[name]) for name in ("state", "norm")]
        lengths = np.full(q.shape[0], 5)
        _, state, norm = oracles.causal_taylor_shift(q, k, v, inputs["temperature"], *zero, lengths, 1)
        return {"state": state, "norm": norm}


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
