"""The CUDA kernels as PyTorch calls them, from the library compiled for the host shim: numbers, refusals, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.operators.arguments import arguments, as_tuple
from torch import Tensor

from hsm_models import ops
from hsm_operators import OPERATORS, cuda_kernels, kernels, use_kernels
from hsm_operators.cuda_kernels import CudaKernelLibrary
from hsm_operators.kernels import Kernel, RefusedError

PATH = Path(__file__).resolve().parents[2] / "build/native/tests/emulated/libhsm_kernels_cuda_emulated.so"
pytestmark = pytest.mark.skipif(not PATH.is_file(), reason=f"there is no {PATH.name}; see `make cpp-test`")
SPECIFICATIONS = {operator.torch_name: operator for operator in OPERATORS.values()}


def library() -> CudaKernelLibrary:
    return CudaKernelLibrary(PATH, device="cpu")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators whose CUDA kernels were run in place of the CPU's, in order."""
    made: list[str] = []
    own = library()
    monkeypatch.setattr(kernels, "_known", lambda operator, device: [own])
    run = Kernel.__call__

    def spy(self: Kernel, *rest: Any) -> Any:
        made.append(self.operator.torch_name)
        return run(self, *rest)

    monkeypatch.setattr(Kernel, "__call__", spy)
    return made


def with_cuda() -> list[str]:
    """Return the operators that have CUDA kernels."""
    if not PATH.is_file():
        return []
    own = library()
    return [name for name, operator in SPECIFICATIONS.items() if own.kernel(operator)]


def called(name: str, found: dict[str, Any], on: bool) -> tuple[Tensor, ...]:
    operator = SPECIFICATIONS[name]
    if not on:
        with use_kernels(False):
            return as_tuple(getattr(ops, name)(**found))
    bound = kernels.prefer_kernel(operator.torch_qualified_name, lambda *_: pytest.fail("the reference was called"))
    schema = kernels.overload_of(operator)._schema.arguments
    return as_tuple(bound(*(found.get(a.name, "auto") for a in schema)))  # else only how the reference computes


def test_most_operators_have_kernels() -> None:
    assert len(with_cuda()) >= 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", with_cuda())
def test_right_numbers(name: str, dtype: torch.dtype, generator: torch.Generator, calls: list[str]) -> None:
    for sizes in ({}, {"length": 1}, {"length": 37}, {"batch": 0}):
        found = arguments(name, generator, dtype, **sizes)
        doubled = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in found.items()}
        truth, native, results = called(name, doubled, False), called(name, found, False), called(name, found, True)
        for index, (result, right, other) in enumerate(zip(results, truth, native, strict=True)):
            assert (result.dtype, result.shape) == (other.dtype, other.shape)
            if index == 0 and "lengths" in found:
                valid = torch.arange(result.shape[1]) < found["lengths"][:, None]
                result, right, other = result[valid], right[valid], other[valid]
            if result.numel():
                # Tensor cores get what float32 carries on as two bfloat16 planes, which keep 16 bits.
                eps = torch.finfo(other.dtype).eps if other.dtype == dtype else 2**-16
                unit = eps * right.abs().max()
                assert (result - right).abs().max() <= 2 * (other - right).abs().max() + 8 * unit
    assert calls == [name] * 4


def test_workspace_is_memory_of_pytorch(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    taken: list[int] = []
    empty = torch.empty

    def spy(*sizes: Any, **options: Any) -> Tensor:
        if options.get("dtype") is torch.uint8:
            taken.append(sizes[0])
        return empty(*sizes, **options)

    own, name = library(), "causal_taylor_shift"
    found = arguments(name, generator, torch.float32, length=300)
    kernel = own.kernel(SPECIFICATIONS[name])
    assert kernel is not None
    monkeypatch.setattr(torch, "empty", spy)
    kernel([found[port.name] for port in kernel.operator.inputs], {"normalize": True})
    assert len(taken) == 1 and taken[0] > 0


def test_what_no_kernel_takes_is_refused(generator: torch.Generator) -> None:
    own, name = library(), "causal_taylor_shift"
    operator = SPECIFICATIONS[name]
    kernel = own.kernel(operator)
    assert kernel is not None
    width = 300  # wider than any kernel
    features = 1 + width + width * (width + 1) // 2
    q = torch.zeros(1, 2, 1, width)
    state, norm = torch.zeros(1, 1, features, 8), torch.zeros(1, 1, features)
    inputs = [q, q, torch.zeros(1, 2, 1, 8), torch.ones(1), state, norm, torch.tensor([2])]
    with pytest.raises(RefusedError, match=r"no CUDA kernel takes q \(1,2,1,300\)"):
        kernel(inputs, {"normalize": True})


def test_pytorch_knows_of_cuda() -> None:
    for name in with_cuda():
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"hsm::{name}", "CUDA")


def test_no_library_is_loaded_for_the_cpu(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    monkeypatch.setattr(cuda_kernels, "libraries", lambda operator: pytest.fail("it was asked for"))
    as_tuple(ops.shift_mix(**arguments("shift_mix", generator, torch.float32)))
