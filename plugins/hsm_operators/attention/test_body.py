"""Attention and its cached forms: bodies, PyTorch and definitions agree, and so do the forms among themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.operators.cases import Array, check, trial
from tests.operators.harness import DTYPES, float32_border, one_node_model, run_onnx_runtime

from hsm_operators.testing import Subject

_HEADS = [{"H": 1, "G": 1, "d": 3, "e": 3}, {"H": 6, "G": 2, "d": 8, "e": 5}]
_WHOLE: list[tuple[dict[str, int], list[int]]] = [
    ({"B": 1, "T": 1, "S": 1}, [1]),
    ({"B": 3, "T": 9, "S": 9}, [9, 0, 4]),
    ({"B": 2, "T": 3, "S": 17}, [17, 2]),
    ({"B": 2, "T": 17, "S": 5}, [5, 1]),
]
_CACHED: list[tuple[dict[str, int], list[int], list[int]]] = [
    ({"B": 1, "T": 1, "C": 1}, [0], [1]),
    ({"B": 3, "T": 1, "C": 12}, [11, 3, 0], [1, 0, 1]),
    ({"B": 3, "T": 5, "C": 12}, [7, 10, 0], [5, 2, 4]),
]
_RING: list[tuple[dict[str, int], list[int], list[int]]] = [
    ({"B": 1, "T": 1, "R": 4}, [0], [1]),
    ({"B": 3, "T": 1, "R": 6}, [11, 3, 100], [1, 0, 1]),
    ({"B": 3, "T": 9, "R": 4}, [2, 10, 0], [9, 3, 0]),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", _HEADS, ids=str)
@pytest.mark.parametrize(("causal", "window"), [(0, 0), (1, 0), (1, 4), (0, 2)])
@pytest.mark.parametrize(("sizes", "lengths"), _WHOLE, ids=str)
def test_whole_sequences(
    sizes: dict[str, int], lengths: list[int], causal: int, window: int, heads: dict[str, int], dtype: str
) -> None:
    attributes = {"causal": causal, "window": window, "scale": 0.3}
    check(trial("Attention", {**sizes, **heads}, attributes, {"lengths": lengths}), dtype, np.random.default_rng(1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", _HEADS, ids=str)
@pytest.mark.parametrize(("sizes", "position", "lengths"), _CACHED, ids=str)
def test_caches(
    sizes: dict[str, int], position: list[int], lengths: list[int], heads: dict[str, int], dtype: str
) -> None:
    rows = {"position": position, "lengths": lengths}
    check(trial("AttentionCached", {**sizes, **heads}, {"scale": 0.3}, rows), dtype, np.random.default_rng(2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", _HEADS, ids=str)
@pytest.mark.parametrize(("sizes", "position", "lengths"), _RING, ids=str)
def test_rings(
    sizes: dict[str, int], position: list[int], lengths: list[int], heads: dict[str, int], dtype: str
) -> None:
    rows = {"position": position, "lengths": lengths}
    attributes = {"window": 3, "scale": 0.3}
    check(trial("WindowAttentionCached", {**sizes, **heads}, attributes, rows), dtype, np.random.default_rng(3))


# Each form once in each type, with shared key heads and more keys of distances than are used.
_RELATIVE: list[tuple[str, dict[str, int], dict[str, Any], dict[str, list[int]]]] = [
    ("RelativeAttention", {"B": 1, "T": 1, "S": 1, "P": 1}, {"causal": 1, "window": 0}, {"lengths": [1]}),
    ("RelativeAttention", {"B": 3, "T": 9, "S": 9, "P": 9}, {"causal": 1, "window": 4}, {"lengths": [9, 0, 4]}),
    ("RelativeAttention", {"B": 2, "T": 3, "S": 17, "P": 20}, {"causal": 0, "window": 0}, {"lengths": [17, 2]}),
    ("RelativeAttention", {"B": 2, "T": 17, "S": 5, "P": 21}, {"causal": 0, "window": 2}, {"lengths": [5, 1]}),
    ("RelativeAttention", {"B": 2, "T": 4, "S": 7, "P": 8}, {"causal": 1, "window": 0}, {"lengths": [5, 1]}),
    ("RelativeAttentionCached", {"B": 3, "T": 1, "C": 12}, {}, {"position": [11, 3, 0], "lengths": [1, 0, 1]}),
    ("RelativeAttentionCached", {"B": 3, "T": 5, "C": 12}, {}, {"position": [7, 10, 0], "lengths": [5, 2, 4]}),
    (
        "WindowRelativeAttentionCached",
        {"B": 3, "T": 9, "R": 4, "P": 5},
        {"window": 3},
        {"position": [2, 10, 0], "lengths": [9, 3, 0]},
    ),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "sizes", "attributes", "rows"), _RELATIVE, ids=str)
def test_relative_positions(
    name: str, sizes: dict[str, int], attributes: dict[str, Any], rows: dict[str, list[int]], dtype: str
) -> None:
    own = trial(name, {**sizes, **_HEADS[1]}, {**attributes, "scale": 0.3}, rows)
    check(own, dtype, np.random.default_rng(6))


def _run(name: str, attributes: dict[str, Any], inputs: dict[str, Array]) -> list[Array]:
    return run_onnx_runtime(float32_border(one_node_model(name, attributes)), inputs)


@pytest.mark.parametrize("window", [0, 4])
def test_prefill_chunks_and_steps_are_the_whole_sequence(window: int) -> None:
    sizes = {"B": 2, "T": 13, "S": 13, "H": 4, "G": 2, "d": 6, "e": 5}
    attributes = {"causal": 1, "window": window, "scale": 0.4}
    lengths = {"lengths": [13, 13]}
    inputs = Subject.own("Attention").drawn(sizes, attributes, lengths, np.random.default_rng(4))
    (whole,) = _run("Attention", attributes, inputs)
    name, memory = ("WindowAttentionCached", "ring") if window else ("AttentionCached", "cache")
    own = {"window": window, "scale": 0.4} if window else {"scale": 0.4}
    slots, done, pieces = 5 if window else 16, 0, []
    keys, values = np.zeros((2, slots, 2, 6)), np.zeros((2, slots, 2, 5))
    for size in (1, 7, 1, 4):
        piece = {key: inputs[key][:, done : done + size] for key in ("q", "k", "v")}
        piece |= {f"key_{memory}": keys, f"value_{memory}": values}
        piece |= {"position": np.full(2, done), "lengths": np.full(2, size)}
        y, keys, values = _run(name, own, piece)
        pieces.append(y)
        done += size
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, rtol=0, atol=2e-6 * np.abs(whole).max())


def test_a_query_that_sees_no_key_gives_zeros() -> None:
    sizes = {"B": 1, "T": 3, "S": 2, "H": 1, "G": 1, "d": 4, "e": 4}
    attributes = {"causal": 0, "window": 0, "scale": 1.0}
    inputs = Subject.own("Attention").drawn(sizes, attributes, {"lengths": [0]}, np.random.default_rng(5))
    (y,) = _run("Attention", attributes, inputs)
    np.testing.assert_array_equal(y, 0)
