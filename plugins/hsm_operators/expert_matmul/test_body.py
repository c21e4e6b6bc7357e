"""ExpertMatMul and ExpertMatMulSum: bodies, PyTorch operators and the definition agree."""

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

NAMES = ("ExpertMatMul", "ExpertMatMulSum")
SIZES = [
    ({"B": 1, "T": 1, "H": 1, "E": 1, "D": 1, "f": 1}, 1),
    ({"B": 2, "T": 1, "H": 2, "E": 5, "D": 7, "f": 3}, 2),
    ({"B": 2, "T": 9, "H": 3, "E": 4, "D": 6, "f": 5}, 4),
    ({"B": 1, "T": 33, "H": 2, "E": 8, "D": 12, "f": 4}, 1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "k"), SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_sizes(name: str, sizes: dict[str, int], k: int, dtype: str) -> None:
    check(trial(name, sizes, {"k": k}), dtype, np.random.default_rng(k))


def _outputs(name: str, k: int, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    model = float32_border(one_node_model(name, {"k": k}))
    return {
        "ort": run_onnx_runtime(model, inputs)[0],
        "reference": run_reference(model, inputs)[0],
        "torch": run_torch(name, {"k": k}, inputs, "fp32")[0],
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0.25, 40.0], ids=["equal", "sigmoids saturated"])
def test_ties_go_to_the_lower_index(name: str, level: float) -> None:
    """At 40 every float32 sigmoid is 1, but the logits still differ: the larger ones are chosen."""
    case = trial(name, {"B": 1, "T": 3, "H": 2, "E": 6, "D": 4, "f": 3}, {"k": 2})
    inputs = case.inputs(np.random.default_rng(1))
    inputs["logits"][:] = level
    chosen = (0, 1)
    if level == 40.0:
        inputs["logits"][..., 3] = inputs["logits"][..., 5] = 41.0
        chosen = (3, 5)
    alone = {**inputs, "logits": np.full_like(inputs["logits"], -np.inf)}
    alone["logits"][..., chosen] = inputs["logits"][..., chosen]
    for runtime, y in _outputs(name, 2, inputs).items():
        np.testing.assert_array_equal(y, _outputs(name, 2, alone)[runtime], err_msg=runtime)


@pytest.mark.parametrize("name", NAMES)
def test_a_logit_of_minus_infinity_adds_nothing(name: str) -> None:
    case = trial(name, {"B": 1, "T": 2, "H": 2, "E": 4, "D": 3, "f": 3}, {"k": 2}, fill={"logits": -np.inf})
    for y in _outputs(name, 2, case.inputs(np.random.default_rng(1))).values():
        np.testing.assert_array_equal(y, 0)
