"""CausalTaylorShift: body, PyTorch operator and the definition agree."""

from __future__ import annotations

import numpy as np
import pytest
from tests.operators.cases import check, trial
from tests.operators.harness import DTYPES, float32_border, one_node_model, run_onnx_runtime

SIZES = [
    ({"B": 1, "T": 1, "H": 1, "d": 1}, [1]),
    ({"B": 3, "T": 1, "H": 2, "d": 5}, [1, 0, 1]),
    ({"B": 3, "T": 7, "H": 2, "d": 4}, [7, 0, 3]),
    ({"B": 1, "T": 127, "H": 1, "d": 3}, [127]),
    ({"B": 2, "T": 128, "H": 1, "d": 3}, [128, 127]),
    ({"B": 2, "T": 129, "H": 2, "d": 7}, [129, 128]),
    ({"B": 2, "T": 300, "H": 1, "d": 2}, [130, 300]),
    ({"B": 3, "T": 1, "H": 2, "d": 3, "e": 7}, [1, 0, 1]),
    ({"B": 2, "T": 131, "H": 2, "d": 5, "e": 13}, [131, 129]),
    ({"B": 2, "T": 131, "H": 2, "d": 5, "e": 2}, [131, 0]),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "lengths"), SIZES, ids=str)
def test_sizes(sizes: dict[str, int], lengths: list[int], dtype: str) -> None:
    case = trial("CausalTaylorShift", sizes, {"normalize": 1}, {"lengths": lengths})
    check(case, dtype, np.random.default_rng(sizes["T"]))


def test_not_normalised() -> None:
    case = trial("CausalTaylorShift", {"B": 2, "T": 9, "H": 2, "d": 3}, {"normalize": 0}, {"lengths": [9, 4]})
    check(case, "fp32", np.random.default_rng(1))


def test_prefill_chunks_and_steps_are_one_operator() -> None:
    rng = np.random.default_rng(2)
    case = trial(
        "CausalTaylorShift", {"B": 2, "T": 150, "H": 2, "d": 5, "e": 7}, {"normalize": 1}, {"lengths": [150, 150]}
    )
    inputs = case.inputs(rng)
    model = float32_border(one_node_model(case.name, case.attributes))
    whole = run_onnx_runtime(model, inputs)
    done, state, norm, pieces = 0, inputs["state"], inputs["norm"], []
    for size in (1, 129, 1, 19):
        piece = {name: inputs[name][:, done : done + size] for name in ("q", "k", "v")}
        piece |= {"temperature": inputs["temperature"], "state": state, "norm": norm, "lengths": np.full(2, size)}
        y, state, norm = run_onnx_runtime(model, piece)
        pieces.append(y)
        done += size
    for actual, reference in zip((np.concatenate(pieces, axis=1), state, norm), whole, strict=True):
        np.testing.assert_allclose(actual, reference, rtol=1e-5, atol=1e-5 * np.abs(reference).max())


def test_idle_rows_keep_their_state_whatever_they_are_fed() -> None:
    case = trial("CausalTaylorShift", {"B": 2, "T": 4, "H": 2, "d": 3}, {"normalize": 1}, {"lengths": [0, 2]})
    inputs = case.inputs(np.random.default_rng(3))
    model = float32_border(one_node_model(case.name, case.attributes))
    clean = run_onnx_runtime(model, inputs)
    for name in ("q", "k", "v"):
        inputs[name][0], inputs[name][1, 2:] = np.nan, np.inf
    y, state, norm = run_onnx_runtime(model, inputs)
    np.testing.assert_array_equal(y[1, :2], clean[0][1, :2])
    np.testing.assert_array_equal(state, clean[1])
    np.testing.assert_array_equal(norm, clean[2])
    np.testing.assert_array_equal(state[0], inputs["state"][0].astype(np.float32))


def test_finite_inputs_give_finite_outputs_beyond_the_lengths() -> None:
    """The next layer reads them; a NaN would make its padding NaN too."""
    case = trial(
        "CausalTaylorShift",
        {"B": 2, "T": 4, "H": 1, "d": 3},
        {"normalize": 1},
        {"lengths": [0, 2]},
    )
    inputs = case.inputs(np.random.default_rng(3))
    inputs |= {name: np.zeros_like(inputs[name]) for name in ("state", "norm")}
    y = run_onnx_runtime(float32_border(one_node_model(case.name, case.attributes)), inputs)[0]
    assert np.isfinite(y).all()
