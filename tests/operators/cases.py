"""Trials of our operators by name, and the comparison of their bodies with the float64 definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import le
from typing import Any

import numpy as np
import onnx
from tests.operators.harness import (
    Array,
    Attributes,
    float32_border,
    one_node_model,
    run_onnx_runtime,
    run_reference,
)

from hsm_operators.testing import Subject, Trial, judge_of

# A runtime takes a one-node model and its float64 inputs, and returns the outputs.
Runtime = Callable[[onnx.ModelProto, Mapping[str, Array]], list[Array]]
BODIES: dict[str, Runtime] = {"ONNX Runtime": run_onnx_runtime, "reference evaluator": run_reference}


def trial(
    name: str,
    sizes: Mapping[str, int],
    attributes: Attributes,
    rows: Mapping[str, Sequence[int]] | None = None,
    fill: Mapping[str, float] | None = None,
) -> Trial:
    """Return a trial of one of our operators."""
    return Trial(Subject.own(name), sizes, attributes, rows or {}, fill or {})


def expected(case: Trial, inputs: Mapping[str, Any]) -> list[Array]:
    """Return the float64 results; NaN where the operator promises nothing."""
    return case.subject.truth(inputs, case.attributes)


def check(case: Trial, dtype: str, rng: np.random.Generator) -> None:
    """Compare torch, ONNX Runtime and onnx's reference evaluator with the definition, on fresh inputs."""
    compare(case, dtype, [case.inputs(rng)], BODIES)


def compare(case: Trial, dtype: str, draws: Sequence[Mapping[str, Array]], runtimes: Mapping[str, Runtime]) -> None:
    """Compare torch and runtimes with the definition; `hsm_operators.testing.judging` says what is allowed.

    Args:
        case: the operator with its sizes.
        dtype: the type T.
        draws: several inputs, of which torch's largest error counts: that of a few numbers alone is luck.
        runtimes: what is judged.
    """
    judge = judge_of(case, dtype, draws)
    assert all(map(le, judge.torch, judge.torch_allowed)), f"torch: {judge.torch} units"
    model = float32_border(one_node_model(case.name, case.attributes, dtype))
    for draw, inputs in enumerate(judge.inputs):
        for runtime, run in runtimes.items():
            errors = judge.errors(draw, run(model, inputs))
            assert all(map(le, errors, judge.allowed)), f"{runtime}: {errors} units, allowed are {judge.allowed}"
