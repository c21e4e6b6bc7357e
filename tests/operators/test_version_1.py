"""A file of version 1 of the operator set gives what it always gave, by the bodies in it and by the fused kernels.

`version_1.onnx` was written when 1 was the newest version: each operator once, in float32; inputs, outputs
and sizes are called Operator.name. It must never be written anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import pytest
from tests.exporter.runtimes.fused import case_of, needs_library, run_fused
from tests.operators.cases import expected
from tests.operators.harness import run_onnx_runtime, run_reference

from hsm_operators import DOMAIN, OPERATORS
from hsm_operators.testing import Trial

Array = npt.NDArray[Any]
FILE = Path(__file__).parent / "version_1.onnx"


def cases() -> dict[str, Trial]:
    """Sizes that version 1 has: its operators take values as wide as keys, and shifts of at least 1."""
    sizes = {"D": 12, "H": 3, "d": 12, "e": 12, "E": 5, "f": 12, "R": 16}
    found = {}
    for node in onnx.load(FILE).graph.node:
        operator = OPERATORS[node.op_type]
        values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        case = case_of(node.op_type, **{name: size for name, size in sizes.items() if name in operator.sizes})
        found[node.name] = replace(case, attributes={item.name: values[item.name] for item in operator.attributes})
    return found


def check(run: Callable[[onnx.ModelProto, dict[str, Array]], list[Array]]) -> None:
    model, rng = onnx.load(FILE), np.random.default_rng(0)
    inputs = {name: case.inputs(rng) for name, case in cases().items()}
    feed = {f"{name}.{key}": array for name, arrays in inputs.items() for key, array in arrays.items()}
    outputs = dict(zip([value.name for value in model.graph.output], run(model, feed), strict=True))
    for name, case in cases().items():
        for port, truth in zip(OPERATORS[name].outputs, expected(case, inputs[name]), strict=True):
            actual, specified = outputs[f"{name}.{port.name}"], ~np.isnan(truth)
            scale = np.abs(truth[specified]).max()
            np.testing.assert_allclose(actual[specified], truth[specified], rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def test_it_is_a_file_of_version_1() -> None:
    model = onnx.load(FILE)
    assert (DOMAIN, 1) in [(item.domain, item.version) for item in model.opset_import]
    assert {function.name for function in model.functions} == {node.op_type for node in model.graph.node}
    onnx.checker.check_model(model)


@pytest.mark.parametrize("run", [run_onnx_runtime, run_reference])
def test_its_bodies(run: Callable[..., list[Array]]) -> None:
    check(run)


@needs_library
def test_the_fused_kernels_take_it() -> None:
    without_bodies = onnx.load(FILE)
    del without_bodies.functions[:]
    check(lambda _, feed: run_fused(without_bodies, feed))
