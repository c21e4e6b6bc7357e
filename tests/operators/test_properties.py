"""For any sizes and attributes: PyTorch operator = body in ONNX Runtime = body in the reference evaluator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.operators.cases import check
from tests.operators.harness import DTYPES
from tests.operators.strategies import cases

from hsm_operators import OPERATORS
from hsm_operators.testing import Trial


def _search(name: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(cases(name), st.sampled_from(DTYPES), st.integers(0, 2**31))
    def agrees(case: Trial, dtype: str, seed: int) -> None:
        check(case, dtype, np.random.default_rng(seed))

    agrees()


@pytest.mark.parametrize("name", OPERATORS)
def test_some_cases_agree(name: str) -> None:
    _search(name, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_many_cases_agree(name: str) -> None:
    _search(name, 300)
