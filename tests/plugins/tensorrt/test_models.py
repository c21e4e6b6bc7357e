"""Whole models through TensorRT-RTX's parser and builder: every `hsm` node becomes a plugin, in every type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.plugins.tensorrt.library import converse, plugin_library

import hsm_export
from hsm_export.building.network import plugin_nodes, strip_bodies
from hsm_models import zoo
from hsm_operators import OPERATORS

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

PRECISIONS = ("fp32", "fp16", "bf16")
QUICK = {("hsm-lm", "fp16")}
# Smallest, expected and largest; names of dynamic dimensions that are not here are taken as they are in the example.
SIZES = {"batch": (1, 2, 4), "length": (1, 16, 128)}
LANGUAGE_MODELS = [name for name in zoo.names() if name != "taylor-shift-digits"]


def cases(names: list[str]) -> list[Any]:
    return [
        pytest.param(name, precision, marks=[] if (name, precision) in QUICK else [pytest.mark.slow])
        for name in names
        for precision in PRECISIONS
    ]


def build(path: Path, directory: Path) -> dict[str, Any]:
    """Parse and build the model at `path`, its bodies taken out."""
    examples = {item["name"]: item["example_shape"] for item in recorded_inputs(path)}
    model = strip_bodies(onnx.load(path), OPERATORS)
    stripped = directory / "stripped.onnx"
    onnx.save(model, stripped)
    profile = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        profile[value.name] = [
            [
                dim.dim_value or SIZES.get(dim.dim_param, [examples[value.name][axis]] * 3)[which]
                for axis, dim in enumerate(dims)
            ]
            for which in range(3)
        ]
    case = {"model": str(stripped), "profile": profile, "architectures": ["SM86"]}
    job = {"library": str(plugin_library()), "register": False, "cases": {"model": case}}
    result: dict[str, Any] = converse("parse_and_build.py", job, directory)["cases"]["model"]
    return result


def recorded_inputs(path: Path) -> list[dict[str, Any]]:
    """Return what the exporter recorded of the model's inputs."""
    properties = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    inputs: list[dict[str, Any]] = json.loads(properties["hsm_export.inputs"])
    return inputs


def check(path: Path, result: dict[str, Any]) -> None:
    expected = plugin_nodes(onnx.load(path, load_external_data=False))
    assert result["refusal"] is None
    assert sorted(result["plugins"]) == sorted(expected)
    assert result["engine_bytes"] > 1000


@pytest.mark.parametrize(("name", "precision"), cases(zoo.names()))
def test_a_zoo_model_is_built_from_plugins(tmp_path: Path, name: str, precision: str) -> None:
    path = tmp_path / "model.onnx"
    hsm_export.export(f"zoo:{name}", output=path, precision=precision)
    result = build(path, tmp_path)
    check(path, result)
    assert result["outputs"]["logits"][1] == "FLOAT"


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_decoding_file_is_built_from_plugins(tmp_path: Path, name: str, precision: str) -> None:
    path = tmp_path / "model.onnx"
    hsm_export.export(f"zoo:{name}", output=path, precision=precision, decode=True, capacity=128)
    result = build(path, tmp_path)
    check(path, result)
    model = onnx.load(path, load_external_data=False)
    assert set(result["outputs"]) == {value.name for value in model.graph.output}
