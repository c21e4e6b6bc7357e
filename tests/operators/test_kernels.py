"""The fused CPU kernels on PyTorch's tensors: the right numbers, wherever they may run, and nowhere else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.operators.arguments import NAMES, arguments, as_tuple, overloaded
from torch import Tensor

from hsm_models import ops
from hsm_operators import OPERATORS, installation, kernels, use_kernels
from hsm_operators.kernels import Kernel, KernelLibrary, RefusedError, own_library
from hsm_operators.signature import signature

pytestmark = pytest.mark.skipif(
    installation.kernels_path() is None,
    reason=f"this installation has no {installation.KERNELS}; `hsm-export doctor` says why",
)
EVERY = pytest.mark.parametrize("name", NAMES)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SPECIFICATIONS = {operator.torch_name: operator for operator in OPERATORS.values()}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators whose kernels were run, in order; refused calls too."""
    made: list[str] = []
    run = Kernel.__call__

    def spy(self: Kernel, *rest: Any) -> Any:
        made.append(self.operator.torch_name)
        return run(self, *rest)

    monkeypatch.setattr(Kernel, "__call__", spy)
    return made


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that nobody wrote to holds NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def call(name: str, found: dict[str, Any], on: bool = True) -> tuple[Tensor, ...]:
    with use_kernels(on):
        return as_tuple(getattr(ops, name)(**found))


def doubled(found: dict[str, Any]) -> dict[str, Any]:
    """Return the same arguments in float64, which has no kernels."""
    return {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in found.items()}


def valid(found: dict[str, Any], y: Tensor) -> Tensor:
    """Return what the operator specifies of its first output."""
    if "lengths" not in found:
        return y
    return y[torch.arange(y.shape[1]) < found["lengths"][:, None]]


def assert_close(results: tuple[Tensor, ...], name: str, found: dict[str, Any]) -> None:
    """Hold results to twice the error of the reference maths in the same type."""
    truth, native = call(name, doubled(found)), call(name, found, on=False)
    for index, (result, right, other) in enumerate(zip(results, truth, native, strict=True)):
        assert (result.dtype, result.shape) == (other.dtype, other.shape) and result.is_contiguous()
        if index == 0:
            result, right, other = (valid(found, y) for y in (result, right, other))
        if not right.numel():
            continue
        unit = torch.finfo(other.dtype).eps * right.abs().max()
        assert (result - right).abs().max() <= 2 * (other - right).abs().max() + 4 * unit


@EVERY
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [{}, {"length": 1}, {"length": 131}, {"batch": 0}], ids=str)
def test_right_numbers(
    name: str, dtype: torch.dtype, sizes: dict[str, int], generator: torch.Generator, calls: list[str], poisoned: None
) -> None:
    found = arguments(name, generator, dtype, **sizes)
    results = call(name, found)
    assert calls == [name]
    assert all(result.isfinite().all() for result in results)
    assert_close(results, name, found)


@EVERY
def test_padding_is_never_read(name: str, generator: torch.Generator) -> None:
    found = arguments(name, generator, torch.float32)
    if "lengths" not in found:
        pytest.skip("it has no padding")
    clean = call(name, found)
    for key in ("x", "k", "v"):
        if key in found:
            padding = torch.arange(found[key].shape[1]) >= found["lengths"][:, None]
            found[key] = found[key].masked_fill(padding[(..., *[None] * (found[key].dim() - 2))], torch.nan)
    spoilt = call(name, found)
    assert torch.equal(valid(found, clean[0]), valid(found, spoilt[0]))
    assert all(torch.equal(a, b) for a, b in zip(clean[1:], spoilt[1:], strict=True))


@EVERY
def test_any_memory_format(name: str, generator: torch.Generator) -> None:
    found = arguments(name, generator, torch.float32)
    scattered: dict[str, Any] = {}
    for key, value in found.items():
        scattered[key] = value
        if isinstance(value, Tensor):
            # Every other element of the last axis, from an odd place in memory, with the axes turned around.
            wide = torch.zeros((*reversed(value.shape[1:]), value.shape[0] * 2 + 1), dtype=value.dtype)
            scattered[key] = wide.permute(*reversed(range(value.dim())))[1::2].copy_(value)
    for left, right in zip(call(name, found), call(name, scattered), strict=True):
        assert torch.equal(left, right)


def test_negated_views_are_read_with_their_sign(generator: torch.Generator) -> None:
    x = torch.randn(2, 5, 4, generator=generator, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    assert torch.equal(call("token_shift", {"x": x, "shifts": [1]})[0][:, 1:], x[:, :-1].resolve_neg())


@EVERY
def test_gradients_are_those_of_the_reference_maths(name: str, generator: torch.Generator, calls: list[str]) -> None:
    gradients = []
    for on in (True, False):
        found = arguments(name, torch.Generator().manual_seed(1), torch.float32)
        leaves = [v.requires_grad_() for v in found.values() if isinstance(v, Tensor) and v.is_floating_point()]
        loss = torch.stack([result.double().sum() for result in call(name, found, on)]).sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    assert calls == [name]
    for left, right in zip(*gradients, strict=True):
        assert torch.equal(left, right)


@EVERY
def test_other_tensors_are_left_to_the_reference_maths(name: str, generator: torch.Generator, calls: list[str]) -> None:
    double = arguments(name, generator)
    call(name, double)
    meta = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in double.items()}
    operator, positional = overloaded(name, meta)
    with use_kernels():
        assert all(result.is_meta for result in as_tuple(operator(*positional)))
    found = arguments(name, generator, torch.float32)
    call(name, found, on=False)
    mixed = next((key for key in ("temperature", "alpha") if key in found), None)
    if mixed:
        call(name, found | {mixed: found[mixed].half()})
    if name in ("taylor_shift", "taylor_shift_masked"):
        call(name, found | {"form": "direct"})
    assert calls == []


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("shift_mix", {"alpha": torch.ones(5)}, "alpha must be"),
        ("token_shift", {"shifts": []}, "shifts must be a list of at least one integer"),
        ("token_shift_cached", {"shifts": [20]}, "fewer than the largest shift 20"),
        ("causal_taylor_shift", {"norm": torch.ones(2, 2, 9)}, "norm must be"),
        ("taylor_shift", {"k": torch.ones(2, 6, 2, 4)}, "k must be"),
    ],
)
def test_mistakes_get_the_reference_maths_own_sentence(
    name: str, changes: dict[str, Any], message: str, generator: torch.Generator, calls: list[str]
) -> None:
    with pytest.raises(ValueError, match=message):
        call(name, arguments(name, generator, torch.float32) | changes)
    assert calls == [name]


def test_lengths_beyond_the_tokens_never_reach_a_kernel(generator: torch.Generator) -> None:
    """The kernel would read memory that is not there; the reference maths takes all tokens then, with and without."""
    found = arguments("causal_taylor_shift", generator, torch.float32) | {"lengths": torch.tensor([6, 1 << 40])}
    for left, right in zip(call("causal_taylor_shift", found), call("causal_taylor_shift", found, False), strict=True):
        assert torch.equal(left, right)


def test_a_kernel_says_what_it_does_not_take(generator: torch.Generator) -> None:
    library, operator = own_library(), OPERATORS["ShiftMix"]
    kernel = library.kernel(operator) if library else None
    assert kernel is not None
    with pytest.raises(RefusedError, match="ShiftMix: width D = 3 does not split into 2 equal groups"):
        kernel([torch.ones(1, 2, 3), torch.ones(3), torch.ones(3)], {"shifts": [1, 2]})


def test_a_failure_of_a_kernel_is_an_error(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Falling back would hide it."""

    def fail(*_arguments: Any) -> None:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(KernelLibrary, "_call", fail)
    kernel = kernels.prefer_kernel("hsm::token_shift", lambda *_: None)
    with use_kernels(), pytest.raises(RuntimeError, match="not enough memory"):
        kernel(torch.ones(1, 2, 3), [1])


@EVERY
def test_compiled_models_run_the_same_kernels(name: str, generator: torch.Generator, calls: list[str]) -> None:
    found = arguments(name, generator, torch.float32)
    expected = call(name, found)
    compiled = torch.compile(getattr(ops, name), backend="aot_eager", fullgraph=True)
    with use_kernels():
        results = as_tuple(compiled(**found))
    assert calls == [name, name]
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    torch.compiler.reset()


def test_a_forked_process_computes_too(generator: torch.Generator) -> None:
    """It has none of its parent's threads; PyTorch's own operators would wait for them for ever."""
    found = arguments("taylor_shift", generator, torch.float32, length=700, width=24)
    torch.set_num_threads(2)
    try:
        expected = call("taylor_shift", found)
        child = os.fork()
        if child == 0:
            same = np.array_equal(call("taylor_shift", found)[0].numpy(), expected[0].numpy())
            os._exit(0 if same else 1)
        assert _ended(child) == 0
    finally:
        torch.set_num_threads(1)


def _ended(child: int, seconds: float = 60) -> int:
    """Wait for a process and return how it ended; it is killed when it takes longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def test_a_kernel_serves_its_own_specification_only() -> None:
    library, operator = own_library(), OPERATORS["TaylorShift"]
    assert library is not None and library.kernel(operator) is not None
    renamed = replace(operator.inputs[0], name="query")
    for other in (replace(operator, domain="acme"), replace(operator, inputs=(renamed, *operator.inputs[1:]))):
        assert library.kernel(other) is None


def test_the_library_has_both_kernels_of_every_operator() -> None:
    library = own_library()
    assert library is not None
    assert set(library.signatures) == {signature(operator) for operator in OPERATORS.values()}
    assert all(library.kernel(operator, kind) for operator in OPERATORS.values() for kind in kernels.KINDS)


@pytest.fixture
def anew() -> Iterator[Callable[[], KernelLibrary | None]]:
    """Finds the library once more."""
    own_library.cache_clear()
    yield own_library
    own_library.cache_clear()


def test_without_the_library_the_reference_maths_serves(
    anew: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, generator: torch.Generator
) -> None:
    monkeypatch.setattr(installation, "folders", lambda: iter([tmp_path]))
    monkeypatch.delenv(installation.KERNELS_VARIABLE, raising=False)
    assert anew() is None
    forward = kernels.prefer_kernel("hsm::token_shift", lambda *given: ("reference", *given))
    with use_kernels():
        assert forward(1, 2) == ("reference", 1, 2)


def test_another_library_can_be_named(anew: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(installation.KERNELS_VARIABLE, str(tmp_path / "libnone.so"))
    with pytest.raises(OSError, match="libnone"):
        anew()
    (tmp_path / "libdamaged.so").write_bytes(b"no library")
    monkeypatch.setenv(installation.KERNELS_VARIABLE, str(tmp_path / "libdamaged.so"))
    with pytest.raises(OSError, match="libdamaged"):
        anew()
    monkeypatch.setenv(installation.KERNELS_VARIABLE, "libm.so.6")
    with pytest.raises(OSError, match="it is no library of kernels"):
        anew()
