"""DecayedLinearAttention and DecayedDeltaRule: bodies, PyTorch and definitions agree, also with ONNX's own operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.operators.cases import Array, check, expected, trial
from tests.operators.harness import DTYPES, float32_border, one_node_model, run_onnx_runtime, run_reference

from hsm_operators.testing import Subject

CALLS = [("DecayedLinearAttention", {"exclusive": 0}), ("DecayedLinearAttention", {"exclusive": 1})]
CALLS += [("DecayedDeltaRule", {})]
EACH = pytest.mark.parametrize(("name", "attributes"), CALLS)
# One token to two chunks and a bit, recurrences of single channels, one decay a head.
SIZES = [
    ({"B": 1, "T": 1, "H": 1, "K": 1, "V": 1, "G": 1}, [1]),
    ({"B": 3, "T": 1, "H": 2, "K": 5, "V": 3, "G": 5}, [1, 0, 1]),
    ({"B": 2, "T": 15, "H": 1, "K": 4, "V": 7, "G": 1}, [15, 2]),
    ({"B": 2, "T": 16, "H": 2, "K": 8, "V": 2, "G": 8}, [16, 15]),
    ({"B": 3, "T": 17, "H": 5, "K": 1, "V": 1, "G": 1}, [17, 0, 16]),
    ({"B": 2, "T": 37, "H": 1, "K": 16, "V": 1, "G": 16}, [37, 33]),
    ({"B": 1, "T": 131, "H": 2, "K": 3, "V": 5, "G": 3}, [131]),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "lengths"), SIZES, ids=str)
@EACH
def test_sizes(name: str, attributes: dict[str, int], sizes: dict[str, int], lengths: list[int], dtype: str) -> None:
    check(trial(name, sizes, attributes, {"lengths": lengths}), dtype, np.random.default_rng(sizes["T"]))


def _inputs(name: str, attributes: dict[str, int], length: int, seed: int, batch: int = 2) -> dict[str, Array]:
    sizes = {"B": batch, "T": length, "H": 2, "K": 6, "V": 5, "G": 6}
    return Subject.own(name).drawn(sizes, attributes, {"lengths": [length] * batch}, np.random.default_rng(seed))


def _run(name: str, attributes: dict[str, int], inputs: dict[str, Array]) -> list[Array]:
    return run_onnx_runtime(float32_border(one_node_model(name, attributes)), inputs)


def _close(actual: Array, truth: Array) -> None:
    np.testing.assert_allclose(actual, truth, rtol=0, atol=2e-6 * np.abs(truth).max())


@EACH
def test_prefill_chunks_and_steps_are_one_operator(name: str, attributes: dict[str, int]) -> None:
    inputs = _inputs(name, attributes, 70, 1)
    whole = _run(name, attributes, inputs)
    done, state, pieces = 0, inputs["state"], []
    for size in (1, 33, 1, 16, 19):
        piece = {key: array[:, done : done + size] if array.ndim == 4 else array for key, array in inputs.items()}
        y, state = _run(name, attributes, {**piece, "state": state, "lengths": np.full(2, size)})
        pieces.append(y)
        done += size
    for actual, truth in zip((np.concatenate(pieces, axis=1), state), whole, strict=True):
        _close(actual, truth)


@EACH
def test_idle_rows_keep_their_state_whatever_they_are_fed(name: str, attributes: dict[str, int]) -> None:
    inputs = _inputs(name, attributes, 5, 2)
    inputs["lengths"] = np.array([0, 3])
    clean = _run(name, attributes, inputs)
    fed = {key: array.copy() for key, array in inputs.items()}
    for key in set(fed) - {"state", "lengths"}:
        fed[key][0], fed[key][1, 3:] = np.nan, np.inf
    y, state = _run(name, attributes, fed)
    np.testing.assert_array_equal(y[1, :3], clean[0][1, :3])
    np.testing.assert_array_equal(state, clean[1])
    np.testing.assert_array_equal(state[0], inputs["state"][0].astype(np.float32))


# Sums of a chunk's logarithms far below what exp can hold, and tokens that forget all.
@pytest.mark.parametrize("strength", [1e-4, 30.0, 1e6, np.inf])
@EACH
def test_decays_of_any_strength(name: str, attributes: dict[str, int], strength: float) -> None:
    inputs = _inputs(name, attributes, 40, 3)
    strong = np.random.default_rng(4).random(inputs["log_decay"].shape) < 0.2
    inputs["log_decay"] = np.where(strong, -strength, inputs["log_decay"])
    case = trial(name, {}, attributes, {"lengths": [40, 40]})
    model = float32_border(one_node_model(name, attributes))
    for run in (run_onnx_runtime, run_reference):
        for actual, truth in zip(run(model, inputs), expected(case, inputs), strict=True):
            _close(actual, truth)


def _standard(domain: str, rule: str, inputs: dict[str, Array]) -> list[Array]:
    """Run ONNX's LinearAttention: the standard's by onnx's evaluator, ONNX Runtime's own in ONNX Runtime."""
    heads = inputs["q"].shape[2]
    feed = {key: array.reshape(*array.shape[:2], -1) for key, array in inputs.items() if key != "state"}
    feed["state"] = inputs["state"]
    names = ["q", "k", "v", "state", "log_decay" if "gated" in rule else "", "beta" if "delta" in rule else ""]
    names = names[: max(index for index, key in enumerate(names) if key) + 1]
    node = helper.make_node(
        "LinearAttention",
        names,
        ["y", "state_out"],
        domain=domain,
        update_rule=rule,
        q_num_heads=heads,
        kv_num_heads=heads,
        scale=1.0,
    )
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, None) for key in names if key],
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, None) for key in ("y", "state_out")],
    )
    opsets = [helper.make_opsetid("", 21 if domain else 27), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    run: Any = run_onnx_runtime if domain else run_reference
    y, state = run(model, {key: feed[key] for key in names if key})
    return [y.reshape(inputs["v"].shape), state]


@pytest.mark.parametrize("decays", [6, 1])
@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_the_standards_own_operator_is_a_part_of_them(domain: str, rule: str, decays: int) -> None:
    if not domain and not onnx.defs.has("LinearAttention"):
        pytest.skip("this onnx has no LinearAttention")
    name, attributes = ("DecayedDeltaRule", {}) if "delta" in rule else ("DecayedLinearAttention", {"exclusive": 0})
    inputs = _inputs(name, attributes, 37, 5)
    inputs["log_decay"] = inputs["log_decay"][..., :decays] * ("gated" in rule)
    beta = np.random.default_rng(6).random((*inputs["k"].shape[:3], 1))
    key = inputs["k"] / np.linalg.norm(inputs["k"], axis=-1, keepdims=True)
    try:
        standard = _standard(domain, rule, {**inputs, "k": key, "beta": beta})
    except Exception as error:
        if "is not a registered function/op" in str(error):
            pytest.skip("this ONNX Runtime has no LinearAttention")
        raise
    inputs["k"] = key
    if "delta" in rule:
        inputs |= {"k": beta * key, "a": -beta * key * np.exp(inputs["log_decay"]), "b": key}
    for actual, truth in zip(_run(name, attributes, inputs), standard, strict=True):
        _close(actual, truth)
