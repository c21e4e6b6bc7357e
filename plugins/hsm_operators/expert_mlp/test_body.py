"""ExpertMLP: body, PyTorch operator and definition agree, and the body holds few hidden units at a time."""

from __future__ import annotations

import numpy as np
import pytest
from tests.operators.cases import check, trial
from tests.operators.harness import (
    DTYPES,
    float32_border,
    one_node_model,
    run_onnx_runtime,
    run_reference,
    run_torch,
)

NAME = "ExpertMLP"
SIZES = [
    ({"B": 1, "T": 1, "E": 1, "D": 1, "w": 1, "O": 1}, 1),
    ({"B": 2, "T": 1, "E": 5, "D": 7, "w": 3, "O": 2}, 2),
    ({"B": 2, "T": 9, "E": 4, "D": 6, "w": 5, "O": 7}, 4),
    ({"B": 1, "T": 2, "E": 70, "D": 3, "w": 2, "O": 3}, 65),
    ({"B": 1, "T": 33, "E": 8, "D": 12, "w": 4, "O": 12}, 1),
    ({"B": 1, "T": 130, "E": 3, "D": 5, "w": 4, "O": 5}, 2),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "k"), SIZES, ids=str)
def test_sizes(sizes: dict[str, int], k: int, dtype: str) -> None:
    check(trial(NAME, sizes, {"k": k, "activation": k % 3}), dtype, np.random.default_rng(k))


def _outputs(k: int, inputs: dict[str, np.ndarray], activation: int = 1) -> dict[str, np.ndarray]:
    attributes = {"k": k, "activation": activation}
    model = float32_border(one_node_model(NAME, attributes))
    return {
        "ort": run_onnx_runtime(model, inputs)[0],
        "reference": run_reference(model, inputs)[0],
        "torch": run_torch(NAME, attributes, inputs, "fp32")[0],
    }


@pytest.mark.parametrize("popular", [0, 2, 5])
def test_all_tokens_may_choose_one_expert(popular: int) -> None:
    """Its blocks are then as many as all other experts' would be; those hold nothing."""
    case = trial(NAME, {"B": 2, "T": 21, "E": 6, "D": 4, "w": 3, "O": 5}, {"k": 1, "activation": 0})
    inputs = case.inputs(np.random.default_rng(popular))
    inputs["logits"][..., popular] = 9.0
    hidden = np.maximum(inputs["x"] @ inputs["up"][popular], 0)
    for runtime, y in _outputs(1, inputs, 0).items():
        np.testing.assert_allclose(
            y, hidden @ inputs["down"][popular] / (1 + np.exp(-9.0)), rtol=1e-4, atol=1e-5, err_msg=runtime
        )


@pytest.mark.parametrize("level", [0.25, 40.0], ids=["equal", "sigmoids saturated"])
def test_ties_go_to_the_lower_index(level: float) -> None:
    """At 40 every float32 sigmoid is 1, but the logits still differ: the larger ones are chosen."""
    case = trial(NAME, {"B": 1, "T": 3, "E": 6, "D": 4, "w": 3, "O": 4}, {"k": 2, "activation": 1})
    inputs = case.inputs(np.random.default_rng(1))
    inputs["logits"][:] = level
    chosen = (0, 1)
    if level == 40.0:
        inputs["logits"][..., 3] = inputs["logits"][..., 5] = 41.0
        chosen = (3, 5)
    alone = {**inputs, "logits": np.full_like(inputs["logits"], -np.inf)}
    alone["logits"][..., chosen] = inputs["logits"][..., chosen]
    for runtime, y in _outputs(2, inputs).items():
        np.testing.assert_array_equal(y, _outputs(2, alone)[runtime], err_msg=runtime)


def test_a_logit_of_minus_infinity_adds_nothing() -> None:
    case = trial(
        NAME, {"B": 1, "T": 2, "E": 4, "D": 3, "w": 2, "O": 3}, {"k": 2, "activation": 0}, fill={"logits": -np.inf}
    )
    for y in _outputs(2, case.inputs(np.random.default_rng(1))).values():
        np.testing.assert_array_equal(y, 0)


def test_experts_that_nobody_chose_are_not_read() -> None:
    case = trial(NAME, {"B": 1, "T": 8, "E": 5, "D": 3, "w": 2, "O": 3}, {"k": 2, "activation": 1})
    inputs = case.inputs(np.random.default_rng(2))
    inputs["logits"][..., (1, 3)] += 50.0
    for expert in (2, 4):
        inputs["up"][expert] = inputs["down"][expert] = np.nan
    for runtime, y in _outputs(2, inputs).items():
        assert np.isfinite(y).all(), runtime
