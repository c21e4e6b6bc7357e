"""Fused kernels on memory as it comes: unaligned, cut out of larger tensors, with no row at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.exporter.runtimes.fused import (
    Array,
    case_of,
    feed,
    fused_session,
    needs_library,
    run_fused,
    same_within_lengths,
)
from tests.operators.harness import DTYPES, NUMPY_TYPES, ONNX_TYPES, float32_border, one_node_model, rounded
from tests.operators.strategies import cases

import onnxruntime
from hsm_operators import OPERATORS
from hsm_operators.testing import Trial

pytestmark = needs_library

WIDTHS = st.integers(1, 9) | st.sampled_from([13, 16, 17, 31, 32, 33])


def _rows(name: str, inputs: dict[str, Array], count: int) -> dict[str, Array]:
    """Keep the first rows of the batch."""
    batched = {value.name for value in OPERATORS[name].inputs if value.shape[0] == "B"}
    return {key: array[:count] if key in batched else array for key, array in inputs.items()}


def _place(array: Array, offset: int) -> Array:
    """Copy an array to an address that is `offset` elements beyond a multiple of 64 bytes."""
    raw = np.empty(array.nbytes + 64 + offset * array.itemsize, np.uint8)
    start = -raw.ctypes.data % 64 + offset * array.itemsize
    placed = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed


def _run_at(name: str, case: Trial, inputs: dict[str, Array], dtype: str, offset: int) -> list[Array]:
    """Run with every input and every output, poisoned with NaN, at unaligned addresses."""
    session = fused_session(one_node_model(name, case.attributes, dtype))
    binding = session.io_binding()
    kept = []
    for value in OPERATORS[name].inputs:
        array = inputs[value.name]
        if value.type not in ("tensor(int64)", "tensor(uint8)"):
            array = array.astype(NUMPY_TYPES[dtype] if value.type == "T" else np.float32)
        kept.append(_place(array, offset))
        _bind(binding.bind_input, value.name, kept[-1])
    shapes = run_fused(float32_border(one_node_model(name, case.attributes, dtype)), inputs)
    outputs = []
    for value, like in zip(OPERATORS[name].outputs, shapes, strict=True):
        poison = np.full(like.shape, np.nan).astype(NUMPY_TYPES[dtype] if value.type == "T" else np.float32)
        outputs.append(_place(poison, offset))
        _bind(binding.bind_output, value.name, outputs[-1])
    session.run_with_iobinding(binding)
    return [output.astype(np.float32) for output in outputs]


def _bind(bind: Any, name: str, array: Array) -> None:
    kind = ONNX_TYPES["bf16"] if array.dtype == NUMPY_TYPES["bf16"] else array.dtype
    bind(name, "cpu", 0, kind, array.shape, array.ctypes.data)


def _search(name: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(cases(name, WIDTHS), st.sampled_from(DTYPES), st.integers(0, 15), st.booleans(), st.integers(0, 2**31))
    def agrees(case: Trial, dtype: str, offset: int, nobody: bool, seed: int) -> None:
        inputs = rounded(name, case.inputs(np.random.default_rng(seed)), dtype)
        if nobody:
            inputs = _rows(name, inputs, 0)
        expected = run_fused(float32_border(one_node_model(name, case.attributes, dtype)), inputs)
        same_within_lengths(name, inputs, expected, _run_at(name, case, inputs, dtype, offset))

    agrees()


@pytest.mark.parametrize("name", OPERATORS)
def test_any_address_and_an_empty_batch(name: str) -> None:
    _search(name, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_many_addresses(name: str) -> None:
    _search(name, 200)


def _view(array: Array, layout: str) -> torch.Tensor:
    """Return a tensor with the numbers of an array that lies in memory as the layout says, amid NaN."""
    tensor = torch.from_numpy(array)
    if layout == "transposed":
        return tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    if layout == "strided":
        home = torch.full([2 * size for size in tensor.shape], torch.nan).to(tensor.dtype)
        part = home[tuple(slice(0, None, 2) for _ in tensor.shape)]
    else:
        home = torch.full([size + 2 for size in tensor.shape], torch.nan).to(tensor.dtype)
        part = home[tuple(slice(1, -1) for _ in tensor.shape)]
    part.copy_(tensor)
    return part


@pytest.mark.parametrize("layout", ["transposed", "strided", "inner"])
@pytest.mark.parametrize("name", OPERATORS)
def test_views_of_torch_tensors(name: str, layout: str) -> None:
    """NumPy arrays that share memory with views go in as they are; so does an OrtValue made of one."""
    case = case_of(name, batch=3, length=9)
    inputs = feed(case.inputs(np.random.default_rng(5)))
    session = fused_session(one_node_model(name, case.attributes))
    expected = session.run(None, inputs)
    views = {key: _view(array, layout).numpy() if array.dtype.kind == "f" else array for key, array in inputs.items()}
    assert any(not view.flags.c_contiguous for view in views.values())
    same_within_lengths(name, inputs, expected, session.run(None, views))
    values = {key: onnxruntime.OrtValue.ortvalue_from_numpy(view) for key, view in views.items()}
    outputs = [value.numpy() for value in session.run_with_ort_values(None, values)]
    same_within_lengths(name, inputs, expected, outputs)
