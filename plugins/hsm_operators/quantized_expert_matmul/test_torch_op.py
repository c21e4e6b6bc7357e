"""Products with chosen experts of few bits: gradients are those of the plain product, wrong arguments are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hsm_operators.expert_matmul.torch_op import expert_matmul, expert_matmul_sum
from hsm_operators.quantized_expert_matmul.torch_op import (
    quantized_expert_matmul,
    quantized_expert_matmul_sum,
    unpacked,
)

pytestmark = pytest.mark.usefixtures("reference_maths")


@pytest.mark.parametrize("per_byte", [1, 2])
@pytest.mark.parametrize("summed", [False, True])
def test_it_is_the_plain_product_with_the_unpacked_matrices(
    summed: bool, per_byte: int, generator: torch.Generator
) -> None:
    shape = (2, 5, 3, 4 * per_byte) if summed else (2, 5, 4 * per_byte)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randint(0, 256, (3, 4, 2, 2, 6), generator=generator, dtype=torch.uint8)
    scales = torch.randn(3, 4, 2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    plain = expert_matmul_sum if summed else expert_matmul
    packed = quantized_expert_matmul_sum if summed else quantized_expert_matmul
    results = packed(x, logits, weight, scales, 2, per_byte), plain(x, logits, unpacked(weight, scales, per_byte), 2)
    torch.testing.assert_close(*results)
    grads = [torch.autograd.grad(y.square().sum(), (x, logits, scales)) for y in results]
    torch.testing.assert_close(*grads)


X, HEADS_X, LOGITS = torch.ones(2, 3, 4), torch.ones(2, 3, 5, 4), torch.ones(2, 3, 5, 6)
WEIGHT, SCALES = torch.ones(5, 6, 2, 2, 7, dtype=torch.uint8), torch.ones(5, 6, 2, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "between 1 and the number of experts"),
        ({"per_byte": 3}, "must be 1 or 2"),
        ({"per_byte": 2}, "does not fit x"),
        ({"x": X[0]}, "dimensions"),
        ({"logits": LOGITS.double()}, "logits must be"),
        ({"logits": LOGITS[0]}, "logits must be"),
        ({"weight": WEIGHT.float()}, "weight must be"),
        ({"weight": WEIGHT[0]}, "weight must have"),
        ({"weight": WEIGHT[:4], "scales": SCALES[:4]}, "heads"),
        ({"scales": SCALES[:, :, :1]}, "scales"),
        ({"scales": SCALES.double()}, "scales must be"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    rest = {"logits": LOGITS, "weight": WEIGHT, "scales": SCALES, "k": 6, "per_byte": 1}
    for operator, x in ((quantized_expert_matmul, X), (quantized_expert_matmul_sum, HEADS_X)):
        assert operator(**{"x": x, **rest}) is not None
        with pytest.raises(ValueError, match=message):
            operator(**{"x": x, **rest, **changes})
