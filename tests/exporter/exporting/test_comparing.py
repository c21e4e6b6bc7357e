"""The comparison with PyTorch: what is allowed, and what never is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hsm_export.comparison.bar import Evidence, bars
from hsm_export.errors import NumbersDifferError
from hsm_export.exporting.comparing import Reference, compare, references
from hsm_export.exporting.inputs import bind
from hsm_export.exporting.source import resolve
from hsm_export.formats.tensor import InputSpec
from hsm_models.ops import expert_matmul


def reference(expected: list[float], native: list[float] | None = None) -> Reference:
    exact = {"0": np.array(expected)}
    own = [] if native is None else [{"0": np.array(native)}]
    (of_case,) = bars("fp32", [Evidence(exact, own)], "torch")
    return Reference({"x": np.zeros((1, 2))}, [], [of_case["0"]], native is not None)


def check(actual: NDArray[np.float32], wanted: Reference) -> float:
    (checked,) = compare([{"y": actual}], [wanted], "fp32")
    return checked.allowed


def test_twice_the_native_error_is_allowed_and_no_more() -> None:
    wanted = reference([1.0, -2.0], native=[1.001, -2.0])
    assert check(np.array([1.0019, -2.0], np.float32), wanted) == pytest.approx(2e-3)
    with pytest.raises(NumbersDifferError, match=r"output 'y' for x \[1, 2\] is off by 0.0021"):
        check(np.array([1.0021, -2.0], np.float32), wanted)


def test_nan_infinity_and_shape() -> None:
    with pytest.raises(NumbersDifferError, match="NaN or infinities"):
        check(np.array([1.0, np.nan], np.float32), reference([1.0, -2.0]))
    with pytest.raises(NumbersDifferError, match="NaN or infinite"):
        check(np.array([1.0, 2.0], np.float32), reference([1.0, np.inf]))
    with pytest.raises(NumbersDifferError, match=r"shape is \(1,\) instead of \(2,\)"):
        check(np.array([1.0], np.float32), reference([1.0, -2.0]))
    check(np.array([1.0, -np.inf], np.float32), reference([1.0, -np.inf]))


class Routed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.experts = nn.Parameter(torch.randn(1, 3, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x.float()).unsqueeze(2) if x.dtype != torch.float64 else self.router(x).unsqueeze(2)
        return expert_matmul(x, logits, self.experts, 2)


def test_all_runs_take_the_experts_of_the_arbiter() -> None:
    torch.manual_seed(5)
    source = resolve(Routed(), (torch.randn(2, 6, 4),))
    inputs = [InputSpec("x", "float32", ("batch", "length", 4), (2, 6, 4))]
    found = references(source, "fp32", [2], inputs)
    assert [item.feeds["x"].shape for item in found] == [(2, 6, 4), (3, 5, 4)]
    for item in found:
        (mask,) = item.masks
        assert mask.shape == (*item.feeds["x"].shape[:2], 1, 3)
        assert (mask.sum(-1) == 2).all()
        assert item.bars[0].reference.dtype == np.float64
        assert item.native and 0 < item.bars[0].native_error < 1e-5


class OnlyFloat32(nn.Module):
    """A user's module that mixes types as soon as it is not float32, and refuses other lengths."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 4:
            raise ValueError("length")
        return torch.matmul(x, torch.eye(3, dtype=torch.float32))


def test_modules_that_run_in_float32_only_are_compared_in_float32() -> None:
    source = resolve(OnlyFloat32(), (torch.randn(2, 4, 3),))
    inputs = [InputSpec("x", "float32", ("batch", "length", 3), (2, 4, 3))]
    item, other = references(source, "bf16", [], inputs)
    assert other.feeds["x"].shape == (3, 4, 3)  # of all sizes that change, only this one is taken
    (bar,) = item.bars
    assert not item.native and bar.reference.shape == (2, 4, 3)
    # What bfloat16 explains comes from rounding at random.
    assert bar.threshold.source == "floor" or 2.0**-8 < bar.threshold.condition < 1.0
    assert bind(OnlyFloat32(), (torch.randn(2, 4, 3),)).inputs[0].name == "x"
