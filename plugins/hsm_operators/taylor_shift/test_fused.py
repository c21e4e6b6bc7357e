"""The gradient in Triton, run by Triton's interpreter: against autograd in float64, in pieces, and where it is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hsm_operators import use_kernels
from hsm_operators.fused_gradient import FusedGradient, has_triton
from hsm_operators.taylor_shift import fused
from hsm_operators.taylor_shift.torch_op import _masked_reference, _reference, taylor_shift, taylor_shift_masked

pytestmark = pytest.mark.skipif(not has_triton(), reason="Triton is not installed: pip install 'hsm-export[triton]'")
NAMES = ("q", "k", "v", "temperature")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def call(
    generator: torch.Generator, dtype: torch.dtype, length: int, width: int, value_width: int
) -> dict[str, Tensor]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    found = {name: draw(2, length, 1, width) for name in "qk"} | {"v": draw(2, length, 1, value_width)}
    return found | {"temperature": 0.5 + draw(1).abs(), "lengths": torch.tensor([length, max(length - 9, 1)])}


def truth(found: dict[str, Tensor], dy: Tensor, **flags: Any) -> list[Tensor]:
    """Return autograd's gradients in float64."""
    leaves = {name: found[name].double().requires_grad_() for name in NAMES}
    y = _masked_reference(**leaves, lengths=found["lengths"], form="direct", **flags)
    grads = torch.autograd.grad(y, list(leaves.values()), dy.double(), allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves.values(), strict=True)]


def of_valid(found: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Return a gradient of the result that is zero in padding."""
    dy = torch.randn(found["v"].shape, generator=generator).to(found["v"].dtype)
    keep = torch.arange(dy.shape[1]) < found["lengths"][:, None]
    return dy * keep[:, :, None, None]


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "efficient"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_right_numbers(dtype: torch.dtype, direct: bool, generator: torch.Generator) -> None:
    """Lengths beyond a block and not a whole number of them; widths that are not blocks; NaN in padding."""
    for length, width, value_width, normalize in (
        (70, 8, 5, True),
        (33, 7, 16, dtype == torch.float16),
        (1, 4, 4, True),
    ):
        found = call(generator, dtype, length, width, value_width)
        dy = of_valid(found, generator)
        flags = {"normalize": normalize, "output_norm": normalize}
        right = truth(found, dy, **flags)
        padding = torch.arange(length) >= found["lengths"][:, None]
        poisoned = {name: torch.where(padding[:, :, None, None], torch.nan, found[name]) for name in "qkv"}
        result = fused.gradient(dy, **found | poisoned, direct=direct, **flags)
        # The interpreter multiplies bfloat16 and what sums are rounded to as float32.
        unit = 2e-3 if dtype == torch.float16 and direct else 4e-6
        for index, expected in enumerate(right):
            bound = unit * expected.abs().max().clamp(min=1)
            assert (result[index] - expected).abs().max() <= bound, (NAMES[index], length)


def test_pytorch_calls_it(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.dtype] = []
    compute = fused.gradient

    def spy(dy: Tensor, q: Tensor, *rest: Any) -> dict[int, Tensor]:
        made.append(q.dtype)
        return compute(dy, q, *rest)

    monkeypatch.setattr(fused, "gradient", spy)
    found = call(generator, torch.float32, 21, 4, 4)
    dy = of_valid(found, generator)
    right = truth(found, dy, normalize=True, output_norm=True)
    leaves = {name: found[name].requires_grad_() for name in NAMES}
    y = taylor_shift_masked(**leaves, lengths=found["lengths"], normalize=True, output_norm=True)
    for grad, expected in zip(torch.autograd.grad(y, list(leaves.values()), dy), right, strict=True):
        torch.testing.assert_close(grad, expected.float(), rtol=1e-4, atol=1e-5)
    assert made == [torch.float32]
    for dtype, options in ((torch.float64, {}), (torch.float32, {"form": "direct"}), (torch.float32, {"off": True})):
        others = {name: x.detach().to(dtype).requires_grad_() for name, x in leaves.items()}
        with use_kernels(not options.pop("off", False)):
            torch.autograd.grad(taylor_shift(**others, **options).sum(), others["q"])
    assert made == [torch.float32]


def test_what_it_does_not_take(generator: torch.Generator) -> None:
    wide = torch.zeros(1, 2, 1, fused.WIDEST + 1)
    plain, empty = wide[..., :8], wide[:0, :, :, :8]
    many, long = plain.expand(70000, 2, 1, 8), plain[:, :1].expand(1, 2**28, 1, 8)
    for q, normalize in ((wide, True), (plain.half(), False), (empty, True), (many, True), (long, True)):
        assert not fused.takes(q, q, q, normalize)
    assert not fused.takes(plain, plain, wide, True)
    assert fused.takes(plain, plain, plain, False) and fused.takes(plain.half(), plain.half(), plain.half(), True)


def test_only_cuda_without_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = FusedGradient(lambda *_: {}, lambda needed, inputs: True)
    assert gradient.applies([0], [torch.zeros(1)]) and not gradient.applies([0], [torch.zeros(1).double()])
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not gradient.applies([0], [torch.zeros(1)])


def test_the_forward_pass_is_no_matter(generator: torch.Generator) -> None:
    """The unmasked operator is the masked one with all tokens valid."""
    found = call(generator, torch.float32, 40, 6, 6)
    found["lengths"] = torch.tensor([40, 40])
    dy = of_valid(found, generator)
    leaves = [found[name].double().requires_grad_() for name in NAMES]
    y = _reference(*leaves, True, False, "direct")
    right = torch.autograd.grad(y, leaves, dy.double())
    result = fused.gradient(dy, *(found[name] for name in NAMES), None, True)
    for index, expected in enumerate(right):
        torch.testing.assert_close(result[index].double(), expected, rtol=1e-4, atol=1e-5)
