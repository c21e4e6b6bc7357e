"""TokenShift, ShiftMix and their cached forms: bodies, PyTorch operators and the definition agree."""

from __future__ import annotations

import numpy as np
import pytest
from tests.operators.cases import check, expected, trial
from tests.operators.harness import DTYPES, float32_border, one_node_model, run_onnx_runtime, run_torch

PLAIN = ("TokenShift", "ShiftMix")
CACHED = ("TokenShiftCached", "ShiftMixCached")

SHIFTED = [
    ({"B": 1, "T": 1, "D": 1}, [1]),
    ({"B": 2, "T": 1, "D": 6}, [4, 9]),
    ({"B": 2, "T": 7, "D": 5}, [7]),
    ({"B": 3, "T": 8, "D": 12}, [1, 7, 8, 2]),
    ({"B": 1, "T": 129, "D": 9}, [128, 1, 64]),
    ({"B": 2, "T": 5, "D": 3}, [0]),
    ({"B": 2, "T": 6, "D": 8}, [0, -1, -5, 2]),
    ({"B": 1, "T": 4, "D": 6}, [-4, -9]),
]
# Sizes, shifts, position and lengths of each row.
RINGED = [
    ({"B": 1, "T": 1, "D": 1, "R": 1}, [1], [0], [1]),
    ({"B": 3, "T": 1, "D": 6, "R": 4}, [1, 4], [0, 3, 100], [1, 0, 1]),
    ({"B": 4, "T": 5, "D": 6, "R": 4}, [4, 1, 2], [0, 1, 7, 2**40 + 3], [5, 3, 0, 4]),
    ({"B": 3, "T": 9, "D": 4, "R": 11}, [9, 3], [2, 30, 8], [9, 0, 1]),
    ({"B": 2, "T": 40, "D": 3, "R": 3}, [3], [0, 5], [40, 17]),
    ({"B": 3, "T": 3, "D": 4, "R": 1}, [0, 0], [0, 1, 8], [3, 0, 2]),
    ({"B": 3, "T": 4, "D": 6, "R": 5}, [0, 2, 5], [0, 3, 17], [4, 1, 0]),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "shifts"), SHIFTED, ids=str)
@pytest.mark.parametrize("name", PLAIN)
def test_whole_sequences(name: str, sizes: dict[str, int], shifts: list[int], dtype: str) -> None:
    check(trial(name, sizes, {"shifts": shifts}), dtype, np.random.default_rng(len(shifts)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "shifts", "position", "lengths"), RINGED, ids=str)
@pytest.mark.parametrize("name", CACHED)
def test_pieces(
    name: str, sizes: dict[str, int], shifts: list[int], position: list[int], lengths: list[int], dtype: str
) -> None:
    case = trial(name, sizes, {"shifts": shifts}, {"position": position, "lengths": lengths})
    check(case, dtype, np.random.default_rng(len(shifts)))


@pytest.mark.parametrize("name", CACHED)
def test_a_fresh_ring_may_hold_anything(name: str) -> None:
    case = trial(name, {"B": 2, "T": 3, "D": 4, "R": 6}, {"shifts": [5, 2]}, {"position": [0, 1], "lengths": [3, 2]})
    inputs = case.inputs(np.random.default_rng(0))
    inputs["ring"][0], inputs["ring"][1, 1:] = np.nan, np.inf
    truth = expected(case, inputs)
    model = float32_border(one_node_model(name, case.attributes))
    for outputs in (run_onnx_runtime(model, inputs), run_torch(name, case.attributes, inputs, "fp32")):
        for row, length in enumerate(case.rows["lengths"]):
            np.testing.assert_allclose(outputs[0][row, :length], truth[0][row, :length], rtol=1e-5)
        np.testing.assert_allclose(outputs[1], truth[1], rtol=1e-6)


@pytest.mark.parametrize("name", CACHED)
def test_pieces_of_any_size_make_the_whole(name: str) -> None:
    rng = np.random.default_rng(7)
    total, shifts = 23, [5, 0, 3]
    whole = trial(
        name, {"B": 2, "T": total, "D": 6, "R": 8}, {"shifts": shifts}, {"position": [0, 0], "lengths": [0, 0]}
    )
    inputs = whole.inputs(rng)
    model = float32_border(one_node_model(name, whole.attributes))
    whole_name = name.removesuffix("Cached")
    plain = {key: inputs[key] for key in inputs if key not in ("ring", "position", "lengths")}
    reference = run_onnx_runtime(float32_border(one_node_model(whole_name, whole.attributes)), plain)[0]
    done, ring = 0, inputs["ring"]
    for size in (1, 4, 9, 2, 7):
        piece = {**inputs, "x": inputs["x"][:, done : done + size], "ring": ring}
        piece |= {"position": np.full(2, done), "lengths": np.full(2, size)}
        y, ring = run_onnx_runtime(model, piece)
        np.testing.assert_array_equal(y, reference[:, done : done + size])
        done += size
    assert done == total


def test_rolling_back_needs_only_a_smaller_position() -> None:
    rng = np.random.default_rng(8)
    case = trial(
        "TokenShiftCached", {"B": 1, "T": 3, "D": 2, "R": 7}, {"shifts": [4]}, {"position": [9], "lengths": [3]}
    )
    model = float32_border(one_node_model(case.name, case.attributes))
    accepted = case.inputs(rng)
    _, speculative = run_onnx_runtime(model, accepted)
    again = {**accepted, "x": rng.standard_normal((1, 3, 2))}
    direct = run_onnx_runtime(model, again)
    rolled_back = run_onnx_runtime(model, {**again, "ring": speculative})
    np.testing.assert_array_equal(rolled_back[0], direct[0])
