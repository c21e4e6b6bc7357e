"""The matrix finds what it is there for: a kernel with one of these faults fails, in the check that is meant for it."""

from __future__ import annotations

import ctypes
import math
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import hsm_export
from hsm_operators.case import Case
from hsm_operators.kernels import Kernel
from hsm_operators.testing import KernelOf, Matrix, Subject, Torch, judge


@hsm_export.operator(
    "planted::Average",
    "x[B,T,D], decay[D], state: float32[B,D], lengths: int64[B] in 0..T -> y[B,T,D], state",
    step=True,
    description="A moving average.",
)
def average(state: torch.Tensor, x: torch.Tensor, decay: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    keep = torch.sigmoid(decay)
    state = keep * state + (1 - keep) * x
    return state, state


OPERATOR = average.operator
Array = Any


def oracle(x: Array, decay: Array, state: Array, lengths: Array) -> tuple[Array, Array]:
    """Token by token."""
    y, state_out = np.full_like(x, np.nan), state.copy()
    keep = 1 / (1 + np.exp(-decay))
    for row, length in enumerate(lengths):
        for token in range(length):
            state_out[row] = keep * state_out[row] + (1 - keep) * x[row, token]
            y[row, token] = state_out[row]
    return y, state_out


SUBJECT = Subject(OPERATOR, Case(OPERATOR, {"B": 2, "T": 6, "D": 4}), oracle)

# A fault changes the arrays of a call once it was computed; `before` is what the state's memory held.
Fault = Callable[[dict[str, Array], Array], None]
_calls = 0


def none(_arrays: dict[str, Array], _before: Array) -> None:
    """Do nothing."""


def padding(arrays: dict[str, Array], _before: Array) -> None:
    """Let the state run on through the padding."""
    x, state = arrays["x"], arrays["state_out"]
    for row, length in enumerate(arrays["lengths"]):
        if length < x.shape[1]:
            state[row] = 0.5 * state[row] + 0.5 * x[row, -1]


def state_of_single_tokens(arrays: dict[str, Array], before: Array) -> None:
    """Forget to write the state where the call has one token."""
    if arrays["x"].shape[1] == 1:
        arrays["state_out"][...] = before


def first_chunk_only(arrays: dict[str, Array], before: Array) -> None:
    """Forget the state that came in."""
    arrays["y"][:, :1] -= 0.5 * before[:, None] if arrays["x"].shape[1] else 0


def odd_channel(arrays: dict[str, Array], before: Array) -> None:
    """Leave out the last channel of an odd width."""
    if arrays["x"].shape[2] % 2:
        arrays["y"][:, :, -1] = 0


def last_output(arrays: dict[str, Array], _before: Array) -> None:
    """Leave one number as it was in memory."""
    for row, length in enumerate(arrays["lengths"]):
        if length > 2 and arrays["y"].size:
            arrays["y"][row, 2, 0] = math.nan


def input_changed(arrays: dict[str, Array], _before: Array) -> None:
    """Use an input as scratch memory."""
    arrays["x"][...] *= 2


def remembers(arrays: dict[str, Array], _before: Array) -> None:
    """Keep something from call to call."""
    global _calls
    _calls += 1
    arrays["y"][...] *= 1 + 1e-7 * (_calls % 2)


def idle_rows(arrays: dict[str, Array], _before: Array) -> None:
    """Write no state for rows without tokens."""
    arrays["state_out"][arrays["lengths"] == 0] = math.nan


def _kernel(fault: Fault) -> KernelOf:
    """Return a kernel in Python, for float32, that reads and writes memory as one in C++ does."""

    def run(_type: int, words: array[int], _attributes: int, inputs: int, outputs: int) -> None:
        batch, length, width = words[0:3]
        shapes = {"x": (batch, length, width), "decay": (width,), "state": (batch, width), "lengths": (batch,)}
        addresses = [*words[inputs:outputs], *words[outputs:]]
        ports = [*shapes.items(), ("y", shapes["x"]), ("state_out", shapes["state"])]
        arrays = {}
        for (name, shape), address in zip(ports, addresses, strict=True):
            kind = ctypes.c_int64 if name == "lengths" else ctypes.c_float
            memory = (kind * math.prod(shape)).from_address(address) if math.prod(shape) else np.empty(0, np.float32)
            arrays[name] = np.ctypeslib.as_array(memory).reshape(shape)
        before = arrays["state"].copy()
        wide = {name: arrays[name].astype(np.float64) for name in ("x", "decay", "state")}
        y, state = oracle(**wide, lengths=arrays["lengths"])
        np.copyto(arrays["y"], y, where=~np.isnan(y), casting="same_kind")
        arrays["state_out"][...] = state
        fault(arrays, before)

    return KernelOf(Kernel(OPERATOR, run), "planted")


def _judged(fault: Fault) -> Matrix:
    return judge([SUBJECT], lambda _subject, _dtype: {"torch": Torch(), "planted": _kernel(fault)}, ["fp32"])


def test_the_kernel_without_a_fault_passes() -> None:
    matrix = _judged(none)
    assert matrix.failures == [] and matrix.passed
    assert len(matrix.cells[1].checks) == 12


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (padding, "unequal lengths: infinite"),
        (state_of_single_tokens, "single tokens: "),
        (first_chunk_only, "chunks of 4: "),
        (odd_channel, "primes: "),
        (last_output, "unequal lengths: infinite"),
        (input_changed, "T = 1: changed its input x"),
        (remembers, "fork: other bits after another continuation of the state"),
        (idle_rows, "unequal lengths: infinite"),
    ],
)
def test_a_fault_is_found(fault: Fault, check: str) -> None:
    matrix = _judged(fault)
    assert not matrix.passed
    assert [cell.verdict for cell in matrix.cells] == ["passed", "failed"]
    found = [
        f"{c.what}: {c.problem or ('infinite' if np.isinf(c.worst) else '')}"
        for c in matrix.cells[1].checks
        if not c.passed
    ]
    assert any(line.startswith(check) for line in found), found


def test_what_is_not_judged_is_not_passed() -> None:
    matrix = judge([SUBJECT], lambda _subject, _dtype: {"fast": "it has no cpu.cc"}, ["fp32"])
    assert not matrix.passed and matrix.failures == []
    (cell,) = matrix.to_dict()["cells"]
    assert (cell["verdict"], cell["skipped"]) == ("skipped", "it has no cpu.cc")


def test_a_formula_that_loses_digits_fails_in_pytorch_itself() -> None:
    @hsm_export.operator("planted::Cancelling", "x[B,T,D] -> y[B,T,D]")
    def cancelling(x: torch.Tensor) -> torch.Tensor:
        return (x + 1e4) - 1e4

    case = Case(cancelling.operator, {"B": 2, "T": 6, "D": 4})
    matrix = judge(
        [Subject(cancelling.operator, case, lambda x: x)], lambda _subject, _dtype: {"torch": Torch()}, ["fp32"]
    )
    assert [cell.verdict for cell in matrix.cells] == ["failed"]
