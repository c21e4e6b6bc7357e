"""Our own operators in the matrix that everybody's are held to: PyTorch's function and both CPU kernels."""

from __future__ import annotations

import pytest

from hsm_operators import OPERATORS, installation
from hsm_operators.kernels import KernelLibrary, own_library
from hsm_operators.testing import Implementation, KernelOf, Subject, Torch, judge

NAMES = tuple(OPERATORS)


def _ways(library: KernelLibrary, subject: Subject) -> dict[str, Implementation | str]:
    ways: dict[str, Implementation | str] = {"torch": Torch()}
    for kind in ("naive", "fast"):
        kernel = library.kernel(subject.operator, kind)
        ways[kind] = KernelOf(kernel, kind, kind == "fast") if kernel else f"there is no {kind} kernel"
    return ways


@pytest.mark.parametrize("name", NAMES)
def test_an_operator_passes_everywhere(name: str) -> None:
    library = own_library()
    if library is None:
        pytest.skip(f"this installation has no {installation.KERNELS}; `hsm-export doctor` says why")
    matrix = judge([Subject.own(name)], lambda subject, _dtype: _ways(library, subject))
    assert matrix.failures == []
    assert {cell.verdict for cell in matrix.cells} == {"passed"}
    checks = {check.what for cell in matrix.cells for check in cell.checks}
    assert {"unequal lengths", "T = 1", "primes", "B = 0", "threads"} <= checks
    carried = {"single tokens", "chunks of 4", "fork", "in place, T = 1"}
    assert carried <= checks if OPERATORS[name].states else not carried & checks
