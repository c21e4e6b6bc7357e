"""Outputs of two files on equal inputs: rounding is no difference, anything else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.exporter.diffing.files.test_structure import rename_everything
from tests.exporter.validation.routed import write_routed
from tests.exporter.validation.tiny import change_weight, flip_largest, plant_nan, tiny_model, write_tiny

from hsm_export.diffing.files.numbers import Numbers, compare_numbers
from hsm_export.errors import BadInputError, UsageError
from hsm_export.onnx_model.model_file import open_model


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write_tiny(tiny_model(), tmp_path / "old.onnx")


def numbers(old: Path, new: Path, **options: Any) -> Numbers:
    return compare_numbers(open_model(old), open_model(new), **options)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rounding_is_no_difference(tmp_path: Path, old: Path, precision: str) -> None:
    new = write_tiny(tiny_model(), tmp_path / "new.onnx", precision)
    found = numbers(old, new)
    assert {item.runtime for item in found.outputs} == {"onnx64", "ort"} and found.incomparable is None
    assert all(item.passed for item in found.outputs), [item.reason for item in found.outputs]
    thresholds = [item.threshold for item in found.outputs]
    assert all(
        item.native_by == "onnx-reference" and item.value == max(item.native, item.condition, item.floor)
        for item in thresholds
    )


@pytest.mark.parametrize("fault", [flip_largest, plant_nan])
def test_a_changed_weight_is_one(tmp_path: Path, old: Path, fault: Any) -> None:
    new = write_tiny(tiny_model(), tmp_path / "new.onnx")
    change_weight(new, "up", fault)
    found = numbers(old, new)
    failed = {item.runtime for item in found.outputs if not item.passed}
    assert failed == {"onnx64", "ort"}
    words = ("allowed", "NaN")
    assert all(any(word in str(item.reason) for word in words) for item in found.outputs if not item.passed)


def test_takes_the_users_inputs(tmp_path: Path, old: Path) -> None:
    found = numbers(old, old, inputs={"tokens": np.arange(6).reshape(2, 3)}, runtimes=["ort", "onnx64"])
    assert [item.case for item in found.outputs] == ["given inputs"] * 2
    with pytest.raises(BadInputError, match="must lie in"):
        numbers(old, old, inputs={"tokens": np.full((1, 1), 99)})
    with pytest.raises(UsageError, match="no runtime"):
        numbers(old, old, runtimes=["nothing"])


def test_holds_experts_to_the_same_choice(tmp_path: Path) -> None:
    path = write_routed(tmp_path / "old.onnx")
    half = write_routed(tmp_path / "new.onnx", "fp16")
    found = numbers(path, half)
    assert all(item.passed for item in found.outputs) and "experts as the old file chooses them" in found.notes
    assert {item.output for item in found.outputs} == {"logits"}


def test_says_why_files_cannot_be_compared(tmp_path: Path, old: Path) -> None:
    model = onnx.load(str(old))
    rename_everything(model)
    onnx.save(model, str(tmp_path / "renamed.onnx"))
    reason = numbers(old, tmp_path / "renamed.onnx").incomparable
    assert reason is not None and reason.startswith("the inputs are tokens and t")
    fixed = onnx.load(str(old))
    fixed.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 8
    onnx.save(fixed, str(tmp_path / "fixed.onnx"))
    cases = {item.input_shapes["tokens"] for item in numbers(old, tmp_path / "fixed.onnx").outputs}
    assert cases == {(1, 8), (2, 8), (3, 8)}
    rank = onnx.load(str(old))
    rank.graph.input[0].type.tensor_type.shape.dim.pop()
    del rank.graph.output[0].type.tensor_type.shape.dim[1]
    onnx.save(rank, str(tmp_path / "rank.onnx"))
    assert "has shape" in (numbers(old, tmp_path / "rank.onnx").incomparable or "")


def test_other_outputs_are_named(tmp_path: Path, old: Path) -> None:
    model = onnx.load(str(old))
    model.graph.node[-1].output[0] = model.graph.output[0].name = "scores"
    onnx.save(model, str(tmp_path / "new.onnx"))
    found = numbers(old, tmp_path / "new.onnx")
    assert (
        found.incomparable == "the files have no output in common"
        and "only one file has the output scores" in found.notes
    )


def test_another_shape_is_a_difference(tmp_path: Path, old: Path) -> None:
    model = onnx.load(str(old))
    last = model.graph.node[-1]
    model.graph.node.append(onnx.helper.make_node("Concat", ["raw", "raw"], ["logits"], "twice", axis=2))
    last.output[0] = "raw"
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 46
    onnx.save(model, str(tmp_path / "new.onnx"))
    found = numbers(old, tmp_path / "new.onnx")
    assert found.outputs and all("its shape is" in (item.reason or "") for item in found.outputs)
    assert all(item.severity == np.inf for item in found.outputs)
