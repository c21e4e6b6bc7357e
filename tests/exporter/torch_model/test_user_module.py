"""Copies of users' modules: independent, in any type, whatever the module holds."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hsm_export.errors import BadInputError
from hsm_export.runtimes.reference_maths import reference_maths
from hsm_export.torch_model.user_module import copied, unwrapped


class Holder(nn.Module):
    """Keeps tensors in every place that people use."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.tied = self.linear.weight
        self.register_buffer("turn", torch.polar(torch.ones(3), torch.arange(3.0)))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.matrix = torch.eye(3)
        self.cache = {"keys": [torch.ones(2), (torch.ones(2) * self.linear.weight.sum())]}
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.cache["keys"][0] += 1
        return torch.view_as_real((x.float() @ self.matrix).to(self.turn.dtype) * self.turn)


def test_a_copy_shares_weights_and_nothing_that_forward_writes() -> None:
    module = Holder()
    copy = copied(module)
    copy(torch.rand(2, 3))
    assert copy.linear.weight.data_ptr() == module.linear.weight.data_ptr()
    assert copy.tied is copy.linear.weight
    assert module.count == 0 and copy.count == 1
    assert torch.equal(module.cache["keys"][0], torch.ones(2))
    assert copy.lock is module.lock
    assert module.training and not copy.training
    copy.to(torch.float64)
    assert module.linear.weight.dtype == torch.float32


def test_a_copy_in_float64_is_all_of_it_in_float64() -> None:
    module = Holder()
    copy = copied(module, torch.float64)
    kinds = {copy.linear.bias.dtype, copy.matrix.dtype, copy.cache["keys"][1].dtype}
    assert kinds == {torch.float64}
    assert (copy.turn.dtype, copy.count.dtype) == (torch.complex128, torch.int64)
    x = torch.rand(2, 3, dtype=torch.float64)
    with reference_maths(torch.float64):
        result = copy(x)
    assert result.dtype == torch.float64
    assert torch.equal(result, torch.view_as_real(x.to(torch.complex128) * module.turn.to(torch.complex128)))
    assert copied(module, torch.bfloat16).turn.dtype == torch.complex64


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_old_style_norms_are_copied(norm: Callable[[nn.Module], nn.Module]) -> None:
    module = norm(nn.Linear(4, 4)).eval()
    x = torch.rand(2, 4)
    module(x)
    with torch.no_grad():
        assert torch.equal(copied(module)(x), module(x))
        assert torch.allclose(copied(module, torch.float64)(x.double()), module(x).double(), atol=1e-6)


def test_what_is_asked_for_in_float32_is_float64_in_a_double_reference() -> None:
    before = torch.get_default_dtype()
    with reference_maths(torch.float64):
        x = torch.ones(2, dtype=torch.float64)
        made = (
            x.float(),
            x.to(torch.float32),
            torch.zeros(2),
            torch.eye(2, dtype=torch.float32),
            x.softmax(0, torch.float32),
        )
        assert {value.dtype for value in made} == {torch.float64}
        assert torch.ones(2, dtype=torch.int32).view(torch.float32).dtype == torch.float32
        assert x.half().dtype == torch.float16
    assert torch.get_default_dtype() == before
    with reference_maths(torch.float32), torch.autocast("cpu", enabled=False):
        assert torch.ones(1).float().dtype == torch.float32


def test_wrappers_are_taken_off_outside_and_inside() -> None:
    inner = nn.Linear(2, 2)
    module = torch.compile(nn.DataParallel(nn.Sequential(torch.compile(inner), nn.ReLU())))
    assert unwrapped(module)[0] is not inner
    copy = copied(module)
    assert [name for name, _ in copy.named_parameters()] == ["0.weight", "0.bias"]


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3))


def meta() -> nn.Module:
    return nn.Linear(2, 2, device="meta")


def scripted() -> nn.Module:
    return nn.Sequential(torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)))


@pytest.mark.parametrize(
    ("make", "words"),
    [(lazy, "0.weight of Sequential has no shape"), (meta, "not loaded"), (scripted, "0 is scripted")],
)
def test_modules_without_weights_or_code_are_refused(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        copied(make())
