"""The registry: every runtime is found by name, says whether it works, and makes a Polygraphy runner."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from polygraphy.backend.base import BaseRunner

from hsm_export.errors import UsageError
from hsm_export.runtimes import get, names
from hsm_export.runtimes.runtime import RunContext, missing_package


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return RunContext(model, tmp_path, "fp32")


def test_names() -> None:
    assert set(names()) >= {"torch", "torch64", "onnx64", "onnx-reference", "ort"}


@pytest.mark.parametrize("name", names())
def test_runtime_describes_itself(name: str, context: RunContext) -> None:
    runtime = get(name)
    assert runtime.name == name
    assert runtime.description
    reason = runtime.available()
    assert reason is None or reason.strip()
    if reason is None:
        assert isinstance(runtime.runner(context), BaseRunner)


@pytest.mark.parametrize("name", ["onnx64", "onnx-reference", "ort"])
def test_file_runtimes_run(name: str, context: RunContext) -> None:
    import numpy as np

    with get(name).runner(context) as runner:
        outputs = runner.infer({"x": np.array([1.0, -2.0], np.float32)})
    assert outputs["y"].tolist() == [-1.0, 2.0]


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as error:
        get("onnxruntime")
    assert "ort" in (error.value.hint or "")


def test_missing_package_says_what_to_install() -> None:
    assert missing_package("numpy", "numpy") is None
    assert "pip install that" in (missing_package("no_such_package_at_all", "that") or "")
