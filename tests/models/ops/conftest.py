"""These tests are of the reference maths; those of the kernels stand in tests/operators."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hsm_operators import use_kernels


@pytest.fixture(autouse=True)
def reference_maths() -> Iterator[None]:
    with use_kernels(False):
        yield
