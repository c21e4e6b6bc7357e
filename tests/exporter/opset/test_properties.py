"""For any sizes and attributes: PyTorch operator = body in ONNX Runtime = body in the reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.exporter.opset.cases import Case, check
from tests.exporter.opset.harness import DTYPES

from hsm_export.opset import OPERATORS


@st.composite
def cases(draw: st.DrawFn, name: str) -> Case:
    """Draw sizes, attributes, positions and lengths that fit each other."""
    operator = OPERATORS[name]
    small = st.integers(1, 4)
    names = {dim for value in (*operator.inputs, *operator.outputs) for dim in value.shape} - {"F"}
    sizes = {dim: draw(small) for dim in sorted(names)}
    sizes["T"] = draw(st.integers(1, 12) | st.sampled_from([127, 128, 129, 200]))
    attributes: dict[str, Any] = {a.name: draw(st.integers(0, 1)) for a in operator.attributes}
    if "shifts" in attributes:
        attributes["shifts"] = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
        sizes["D"] *= len(attributes["shifts"])
    if "R" in sizes:
        sizes["R"] = max(attributes["shifts"]) + draw(st.integers(0, 5))
    if "k" in attributes:
        attributes["k"] = draw(st.integers(1, sizes["E"]))
    least = 1 if name == "TaylorShiftMasked" else 0
    per_row = {"position": st.integers(0, 50), "lengths": st.integers(least, sizes["T"])}
    rows = {
        value.name: draw(st.lists(per_row[value.name], min_size=sizes["B"], max_size=sizes["B"]))
        for value in operator.inputs
        if value.name in per_row
    }
    return Case(name, sizes, attributes, rows)


def _search(name: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(cases(name), st.sampled_from(DTYPES), st.integers(0, 2**31))
    def agrees(case: Case, dtype: str, seed: int) -> None:
        check(case, dtype, np.random.default_rng(seed))

    agrees()


@pytest.mark.parametrize("name", OPERATORS)
def test_some_cases_agree(name: str) -> None:
    _search(name, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_many_cases_agree(name: str) -> None:
    _search(name, 300)
