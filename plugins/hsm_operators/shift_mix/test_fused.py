"""The gradient of ShiftMix in Triton, run by Triton's interpreter: against autograd in float64."""

from __future__ import annotations

import pytest
import torch

from hsm_operators.fused_gradient import has_triton
from hsm_operators.shift_mix import fused
from hsm_operators.shift_mix.torch_op import _mix_reference, shift_mix

pytestmark = pytest.mark.skipif(not has_triton(), reason="Triton is not installed: pip install 'hsm-export[triton]'")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_right_numbers(dtype: torch.dtype, generator: torch.Generator) -> None:
    for shape, shifts in (((2, 70, 72), [1, 0, 40]), ((1, 5, 12), [-2, 9]), ((3, 1, 4), [1])):
        x, dy = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        alpha, beta = (torch.randn(shape[2], generator=generator).to(dtype) for _ in range(2))
        leaves = [tensor.double().requires_grad_() for tensor in (x, alpha, beta)]
        right = torch.autograd.grad(_mix_reference(*leaves, shifts), leaves, dy.double(), allow_unused=True)
        result = fused.gradient(dy, [0, 1, 2], x, alpha, beta, shifts)
        for index, expected in enumerate(right):
            expected = torch.zeros_like(leaves[index]) if expected is None else expected
            unit = torch.finfo(dtype).eps if index == 0 else 1e-5
            assert (result[index] - expected).abs().max() <= unit * expected.abs().max().clamp(min=1)


def test_pytorch_calls_it(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x, alpha, beta = (torch.randn(shape, generator=generator) for shape in ((2, 9, 8), (8,), (8,)))
    leaves = [tensor.requires_grad_() for tensor in (x, alpha, beta)]

    def run() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(shift_mix(*leaves, [1, 3]).square().sum(), leaves)

    used = run()
    monkeypatch.setattr("hsm_operators.shift_mix.triton_kernels.backward", None)
    with pytest.raises(TypeError):
        run()
    monkeypatch.delenv("TRITON_INTERPRET")
    torch.testing.assert_close(used, run())
