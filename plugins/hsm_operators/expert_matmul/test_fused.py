"""The gradients of products with experts in Triton, run by Triton's interpreter: against the maths in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hsm_operators.expert_matmul import torch_op
from hsm_operators.expert_matmul.torch_op import expert_matmul, expert_matmul_sum
from hsm_operators.fused_gradient import has_triton

pytestmark = pytest.mark.skipif(not has_triton(), reason="Triton is not installed: pip install 'hsm-export[triton]'")
HEADS, EXPERTS = 2, 5
TOKENS = 2 * 23


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def call(generator: torch.Generator, dtype: torch.dtype, summed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, logits and weight, with 37 inputs and 21 outputs; the last expert of a head is chosen by nobody."""
    tokens = (2, 23, HEADS) if summed else (2, 23)
    x, weight = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((*tokens, 37), (HEADS, EXPERTS, 37, 21))
    )
    logits = torch.randn((2, 23, HEADS, EXPERTS), generator=generator)
    logits[..., 0, -1] = -50
    logits[0, 0, 0, 1] = logits[0, 0, 0, 2]  # a tie
    return x, logits, weight


@pytest.mark.parametrize("summed", [False, True], ids=["plain", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_right_numbers(dtype: torch.dtype, summed: bool, generator: torch.Generator) -> None:
    inputs = call(generator, dtype, summed)
    dy = torch.randn((2, 23, 21) if summed else (2, 23, HEADS, 21), generator=generator).to(dtype)
    written = torch_op._sum_gradient if summed else torch_op._gradient
    used = torch_op._sum_fused_gradient if summed else torch_op._fused_gradient
    right = written(dy.double(), [0, 1, 2], *(x.double() for x in inputs), 2)
    result = used(dy, [0, 1, 2], *inputs, 2)
    for index, expected in right.items():
        # Weights are rounded to their type, and gates times dy before they are multiplied. Sums over the tokens in
        # float32, in an order that is the processor's, err as the root of their number.
        summing = math.sqrt(TOKENS) * torch.finfo(torch.float32).eps / 2
        unit = 2 * torch.finfo(dtype).eps + summing if index == 2 else 4e-6
        assert (result[index] - expected).abs().max() <= unit * expected.abs().max().clamp(min=1), index


def test_pytorch_calls_it(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    for summed, function in ((False, expert_matmul), (True, expert_matmul_sum)):
        leaves = [x.requires_grad_() for x in call(generator, torch.float32, summed)]
        used = torch.autograd.grad(function(*leaves, 2).square().sum(), leaves)
        with monkeypatch.context() as patch:
            patch.setattr("hsm_operators.expert_matmul.triton_kernels.of_weights", None)
            with pytest.raises(TypeError):
                torch.autograd.grad(function(*leaves, 2).sum(), leaves)
            patch.delenv("TRITON_INTERPRET")
            right = torch.autograd.grad(function(*leaves, 2).square().sum(), leaves)
        torch.testing.assert_close(used, right, rtol=1e-4, atol=1e-4)
