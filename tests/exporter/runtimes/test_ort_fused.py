"""The fused kernels inside ONNX Runtime: they really run, and their numbers are those of the definition."""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.exporter.runtimes.fused import (
    Array,
    case_of,
    executed,
    feed,
    fused_session,
    needs_library,
    run_fused,
    same_within_lengths,
)
from tests.operators.cases import Runtime, compare
from tests.operators.harness import (
    ANY_ATTRIBUTES,
    DTYPES,
    NUMPY_TYPES,
    ONNX_TYPES,
    float32_border,
    one_node_model,
    rounded,
)
from tests.operators.inputs import keeps_rules, row_range
from tests.operators.strategies import cases

import onnxruntime
from hsm_operators import OPERATORS
from hsm_operators.testing import Trial

pytestmark = needs_library

# The bodies are held to the same definition in tests/operators.
RUNTIMES: dict[str, Runtime] = {"fused": run_fused}
# Widths around the vector lengths and tiles of the kernels, odd and prime ones too.
WIDTHS = st.integers(1, 9) | st.sampled_from([13, 15, 16, 17, 31, 32, 33])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_the_kernel_runs_in_place_of_the_body(name: str, dtype: str, tmp_path: Path) -> None:
    case = case_of(name)
    session = fused_session(float32_border(one_node_model(name, case.attributes, dtype)), profile=tmp_path / "p")
    session.run(None, feed(rounded(name, case.inputs(np.random.default_rng(0)), dtype)))
    operators = executed(session)
    assert operators.count(name) == 1
    assert set(operators) - {"Cast"} == {name}


def _draws(case: Trial, seed: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [case.poisoned(case.inputs(rng)) for _ in range(4)]


def _search(name: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(cases(name, WIDTHS), st.sampled_from(DTYPES), st.integers(0, 2**31))
    def agrees(case: Trial, dtype: str, seed: int) -> None:
        compare(case, dtype, _draws(case, seed), RUNTIMES)

    agrees()


@pytest.mark.parametrize("name", OPERATORS)
def test_some_cases_agree(name: str) -> None:
    _search(name, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_many_cases_agree(name: str) -> None:
    _search(name, 200)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 31, pytest.param(521, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", OPERATORS)
def test_chosen_lengths_agree(name: str, length: int, dtype: str) -> None:
    case = case_of(name, batch=3, length=length)
    compare(case, dtype, _draws(case, length), RUNTIMES)


def _may_be_zero(name: str, dim: str) -> bool:
    """Whether a size may be 0, and there are numbers of rows for it."""
    operator, attributes = OPERATORS[name], ANY_ATTRIBUTES[name]
    sizes = {**case_of(name).sizes, dim: 0}
    spans = [row_range(port, sizes, attributes) for port in operator.inputs if port.rows]
    possible = all(least <= most for least, most in spans)
    return possible and not operator.sizes[dim].least and keeps_rules(operator, sizes, attributes)


EMPTY = [(name, dim) for name, operator in OPERATORS.items() for dim in operator.sizes if _may_be_zero(name, dim)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "empty"), EMPTY)
def test_sizes_of_zero_give_empty_outputs_or_zeros(name: str, empty: str, dtype: str) -> None:
    case = case_of(name)
    sizes = {**case.sizes, empty: 0}
    arrays = {}
    for value in OPERATORS[name].inputs:
        least = row_range(value, sizes, case.attributes)[0] if value.rows else 0
        kind = np.int64 if value.rows else np.uint8 if value.type == "tensor(uint8)" else np.float32
        arrays[value.name] = np.full([sizes[dim] for dim in value.shape], least, kind)
    outputs = run_fused(float32_border(one_node_model(name, case.attributes, dtype)), arrays)
    for value, output in zip(OPERATORS[name].outputs, outputs, strict=True):
        assert output.shape == tuple(sizes[dim] for dim in value.shape)
        assert not output.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_any_number_of_threads_gives_the_same_bits(name: str, dtype: str) -> None:
    case = case_of(name, batch=3, length=700)
    inputs = rounded(name, case.inputs(np.random.default_rng(1)), dtype)
    model = float32_border(one_node_model(name, case.attributes, dtype))
    one = run_fused(model, inputs)
    for threads in (2, 5):
        same_within_lengths(name, inputs, one, run_fused(model, inputs, threads))


@pytest.mark.parametrize("name", OPERATORS)
def test_threads_in_one_session_and_several_sessions_give_the_same_numbers(name: str) -> None:
    model = float32_border(one_node_model(name, ANY_ATTRIBUTES[name]))
    sessions = [fused_session(model, threads) for threads in (1, 2, 3)]
    feeds = []
    for seed, length in enumerate((1, 5, 64, 200)):
        feeds.append(feed(case_of(name, length=length).inputs(np.random.default_rng(seed))))
    alone = [sessions[0].run(None, one) for one in feeds]
    start = threading.Barrier(6)

    def work(worker: int) -> None:
        start.wait()
        for turn in range(12):
            index = (worker + turn) % len(feeds)
            outputs = sessions[turn % len(sessions)].run(None, feeds[index])
            same_within_lengths(name, feeds[index], alone[index], outputs)

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work, worker) for worker in range(6)]:
            future.result()


# Inputs of the operators that carry a state, and the outputs that may share their buffers.
CARRIED = {
    name: {state.past: state.present for state in operator.states if state.in_place}
    for name, operator in OPERATORS.items()
    if operator.in_place
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CARRIED)
def test_a_state_is_updated_in_place(name: str, dtype: str) -> None:
    case = case_of(name, batch=3, length=9)
    inputs = rounded(name, case.inputs(np.random.default_rng(2)), dtype)
    session = fused_session(one_node_model(name, case.attributes, dtype))
    apart = _bound_run(session, name, inputs, dtype, {})
    in_place = _bound_run(session, name, inputs, dtype, CARRIED[name])
    assert apart.keys() == in_place.keys()
    for output, content in apart.items():
        if output != "y":
            assert content == in_place[output], output
    shape = (case.sizes["B"], case.sizes["T"], -1)
    for row, length in enumerate(case.rows["lengths"]):
        ours, theirs = (np.frombuffer(run["y"], np.uint8).reshape(shape) for run in (apart, in_place))
        np.testing.assert_array_equal(ours[row, :length], theirs[row, :length])


def _bound_run(
    session: Any, name: str, inputs: dict[str, Array], dtype: str, shared: dict[str, str]
) -> dict[str, bytes]:
    """Run with bound buffers, where each output of `shared` is the buffer of its input; return the outputs' bytes."""
    values = {
        value.name: _tensor(inputs[value.name], dtype if value.type == "T" else "fp32")
        for value in OPERATORS[name].inputs
    }
    binding = session.io_binding()
    for key, value in values.items():
        binding.bind_ortvalue_input(key, value)
    sources = {output: source for source, output in shared.items()}
    results = {}
    ports = OPERATORS[name].inputs
    sizes = {dim: size for port in ports for dim, size in zip(port.shape, inputs[port.name].shape, strict=True)}
    for value in OPERATORS[name].outputs:
        poison = np.full([sizes[dim] for dim in value.shape], np.nan)
        fresh = _tensor(poison, dtype if value.type == "T" else "fp32")
        results[value.name] = values[sources[value.name]] if value.name in sources else fresh
        binding.bind_ortvalue_output(value.name, results[value.name])
    session.run_with_iobinding(binding)
    return {key: ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()) for key, value in results.items()}


def _tensor(array: Array, dtype: str) -> Any:
    """Return an OrtValue; bfloat16 goes in as bits, because NumPy has no such type."""
    if array.dtype.kind in "iu":
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    typed = array.astype(NUMPY_TYPES[dtype])
    if dtype != "bf16":
        return onnxruntime.OrtValue.ortvalue_from_numpy(typed)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(typed.view(np.uint16), ONNX_TYPES[dtype])


@pytest.mark.parametrize("name", ["TokenShiftCached", "ShiftMixCached"])
def test_steps_in_place_make_the_whole_sequence(name: str) -> None:
    whole = replace(case_of(name.removesuffix("Cached"), length=40), attributes=ANY_ATTRIBUTES[name])
    inputs = whole.inputs(np.random.default_rng(3))
    expected = run_fused(float32_border(one_node_model(whole.name, whole.attributes)), inputs)[0]
    session = fused_session(one_node_model(name, whole.attributes))
    ring = onnxruntime.OrtValue.ortvalue_from_numpy(np.full((2, 11, 12), np.nan, np.float32))
    binding = session.io_binding()
    for key in {"alpha", "beta"} & set(inputs):
        binding.bind_cpu_input(key, inputs[key].astype(np.float32))
    binding.bind_ortvalue_input("ring", ring)
    binding.bind_ortvalue_output("ring_out", ring)
    for step in range(40):
        binding.bind_cpu_input("x", np.ascontiguousarray(inputs["x"][:, step : step + 1], np.float32))
        binding.bind_cpu_input("position", np.full(2, step))
        binding.bind_cpu_input("lengths", np.ones(2, np.int64))
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(binding.get_outputs()[1].numpy()[:, 0], expected[:, step])
