"""Run exported files and their modules side by side, with nothing of the exporter's own checks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import onnxruntime
from hsm_export.onnx_model.bfloat16 import widen_bfloat16

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def session(path: Path) -> Any:
    """Make an ONNX Runtime session of a file."""
    model = widen_bfloat16(onnx.load(path, load_external_data=False))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_torch(module: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> NDArray[np.float64]:
    """Run a copy of the module in a type; returns its one output in float64."""
    cast = [value.to(dtype) if value.is_floating_point() else value for value in inputs]
    with torch.no_grad():
        output: Tensor = copy.deepcopy(module).to(dtype).eval()(*cast)
    return output.double().numpy()


def assert_agrees(path: Path, module: nn.Module, precision: str, *many_inputs: tuple[Tensor, ...]) -> None:
    """Assert that a file's error against float64 is at most twice PyTorch's own in the same precision.

    Args:
        path: the file.
        module: the module that it was made from.
        precision: its precision.
        many_inputs: the inputs of each run.
    """
    running = session(path)
    names = [value.name for value in running.get_inputs()]
    for inputs in many_inputs:
        (actual,) = running.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        exact = run_torch(module, inputs, torch.float64)
        native = run_torch(module, inputs, TYPES[precision])
        assert actual.shape == exact.shape
        assert actual.dtype == np.float32
        scale = np.abs(exact).max()
        allowed = 2 * np.abs(native - exact).max() + 4 * torch.finfo(TYPES[precision]).eps * scale
        error = np.abs(actual - exact).max()
        assert error <= allowed, f"{[tuple(value.shape) for value in inputs]}: {error} > {allowed}"


def assert_all_agree(path: Path, module: nn.Module, *runs: tuple[Any, ...], tolerance: float = 1e-6) -> None:
    """Assert that every result of a file is that of its module in float64.

    Args:
        path: the file.
        module: the module that it was made from, in float32 or float64.
        runs: the arguments of each run; tuples of tensors among them are inputs one by one.
        tolerance: absolute; the numbers are about 1.
    """
    running = session(path)
    names = [value.name for value in running.get_inputs()]
    exact = copy.deepcopy(module).double().eval()
    for arguments in runs:
        actual = running.run(None, {name: t.numpy() for name, t in zip(names, _flat(arguments), strict=True)})
        with torch.no_grad():
            expected = _flat(exact(*_in_double(arguments)))
        for array, tensor in zip(actual, expected, strict=True):
            assert array.shape == tuple(tensor.shape)
            assert np.abs(array - tensor.numpy()).max(initial=0.0) <= tolerance


def _flat(tree: Any) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [tensor for item in tree for tensor in _flat(item)]


def _in_double(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.double() if tree.is_floating_point() else tree
    return tuple(_in_double(item) for item in tree)


def metadata(path: Path) -> dict[str, Any]:
    """Return a file's metadata, without the common prefix, JSON values parsed."""
    model = onnx.load(path, load_external_data=False)
    assert all(entry.key.startswith("hsm_export.") for entry in model.metadata_props)
    values = {entry.key.removeprefix("hsm_export."): entry.value for entry in model.metadata_props}
    return {**values, "inputs": json.loads(values["inputs"])}
