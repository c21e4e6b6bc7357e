"""Files of fixed sizes: no shape is computed, the numbers are PyTorch's, and wrong sizes are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.exporter.exporting.models import MIXERS, language_model

import hsm_export
import onnxruntime
from hsm_export.errors import UsageError

# What computes with sizes.
SHAPES = {"Shape", "Size", "ConstantOfShape", "Range", "NonZero", "Scan", "Loop", "If"}


@pytest.mark.parametrize("name", ["hsm-gated2", "taylor-shift", "switch-head", "hybrid"])
def test_nothing_computes_sizes(name: str, tmp_path: Path) -> None:
    source, path = language_model(*MIXERS[name]), tmp_path / "m.onnx"
    result = hsm_export.export(source, output=path, static=(2, 12))
    model = onnx.load(path)
    assert not {node.op_type for node in model.graph.node} & SHAPES
    assert not model.functions
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.output]
    assert shapes[0][:2] == [2, 12] and result.inputs[0].shape == (2, 12)
    checked = hsm_export.validate(path, source, runtimes=["ort"])
    assert checked.passed, checked.summary


def test_a_decoding_step_of_fixed_sizes(tmp_path: Path) -> None:
    source, path = language_model(*MIXERS["hybrid"]), tmp_path / "m.onnx"
    result = hsm_export.export(source, output=path, decode=True, static={"batch": 4, "length": 1, "capacity": 32})
    assert all(isinstance(size, int) for spec in result.inputs for size in spec.shape)
    assert not {node.op_type for node in onnx.load(path).graph.node} & SHAPES


def test_a_bfloat16_file_brings_one_for_cpus(tmp_path: Path) -> None:
    source, path = language_model(*MIXERS["hsm-gated2"]), tmp_path / "m.onnx"
    result = hsm_export.export(source, output=path, precision="bf16", cpu_file=True, external_data=True)
    assert result.cpu_file == tmp_path / "m.cpu.onnx" and {f.name for f in tmp_path.iterdir()} == {
        "m.onnx", "m.onnx.data", "m.onnx.json", "m.cpu.onnx",
    }  # fmt: skip
    session = onnxruntime.InferenceSession(result.cpu_file)
    (logits,) = session.run(None, {"tokens": np.zeros((1, 5), np.int64)})
    with torch.no_grad():
        right = source(torch.zeros((1, 5), dtype=torch.int64)).numpy()
    assert np.abs(logits - right).max() < 0.1 * np.abs(right).max()
    with pytest.raises(UsageError, match="fp16 run on CPUs as they are"):
        hsm_export.export(source, output=path, precision="fp16", cpu_file=True)


def test_sizes_by_name(tmp_path: Path) -> None:
    convolution, path = torch.nn.Conv2d(1, 2, 3), tmp_path / "m.onnx"
    dynamic = {"input": {0: "batch", 2: "height", 3: "width"}}
    example = (torch.randn(2, 1, 9, 7),)
    sizes = {"batch": 1, "height": 5, "width": 6}
    hsm_export.export(convolution.eval(), example, path, dynamic=dynamic, static=sizes)
    assert [dim.dim_value for dim in onnx.load(path).graph.output[0].type.tensor_type.shape.dim] == [1, 2, 3, 4]
    assert hsm_export.validate(path, convolution, runtimes=["ort"]).passed
    for wrong, words in (
        ({"batch": 1}, "no size is given for height, width"),
        ({**sizes, "depth": 3}, "no dimension is called depth"),
        ({**sizes, "width": 0}, "width cannot be 0"),
    ):
        with pytest.raises(UsageError, match=words):
            hsm_export.export(convolution, example, path, dynamic=dynamic, static=wrong)
