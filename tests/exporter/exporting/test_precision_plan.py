"""A precision plan's file: obeyed by the export, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.exporter.exporting.harness import metadata

from hsm_export import export
from hsm_export.errors import BadInputError, HsmExportError, UsageError
from hsm_export.exporting.wide_nodes import read_plan
from hsm_models.checkpoint import fingerprint, resolve

MODEL = "zoo:taylor-shift-digits"
LISTED = ("layers.0.mixer.qkv.MatMul", "layers.1.mixer")


def document(**changes: Any) -> dict[str, Any]:
    """Return the JSON of a plan as far as an export reads it."""
    plan = {
        "schema": "hsm-export precision plan",
        "schema_version": 1,
        "source_sha256": fingerprint(resolve(MODEL)),
        "precision": "fp16",
        "target": 0.005,
        "nodes": [{"name": name} for name in LISTED],
    }
    return {**plan, **changes}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps(document(**changes)))
    return path


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_export_keeps_exactly_the_listed_nodes_wide(tmp_path: Path, precision: str) -> None:
    path = tmp_path / "model.onnx"
    plan = written(tmp_path, precision=precision)
    result = export(MODEL, output=path, precision=precision, precision_plan=plan)
    assert result.wide_nodes == LISTED
    assert json.loads(metadata(path)["precision_plan"]) == {"target": 0.005, "nodes": list(LISTED)}
    low = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = {
        node.name: {types[name] for name in (*node.input, *node.output) if types.get(name) in (1, low)}
        for node in model.graph.node
        if node.op_type != "Cast"
    }
    prepared = {"layers.1.mixer.Reshape_2"}  # of their weights; Transposes are done when the file is written
    assert {name for name, used in found.items() if used == {1}} == {*LISTED, *prepared}
    assert found["layers.0.norm1.LayerNormalization"] == {low}


def test_without_a_plan_nothing_is_recorded(tmp_path: Path) -> None:
    result = export(MODEL, output=tmp_path / "model.onnx", precision="fp16")
    assert result.wide_nodes is None
    assert "precision_plan" not in metadata(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("changes", "precision", "kind", "words"),
    [
        ({"source_sha256": "0" * 64}, "fp16", BadInputError, "made for another model"),
        ({}, "bf16", UsageError, "is for fp16, not for bf16"),
        ({}, "fp32", UsageError, "is for fp16, not for fp32"),
        ({"nodes": [{"name": "layers.9.mixer"}]}, "fp16", BadInputError, "names the node 'layers.9.mixer'"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], precision: str, kind: type[HsmExportError], words: str
) -> None:
    plan = written(tmp_path, **changes)
    with pytest.raises(kind, match=words) as caught:
        export(MODEL, output=tmp_path / "model.onnx", precision=precision, precision_plan=plan)
    assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_decoding_step_has_no_plan(tmp_path: Path) -> None:
    plan = written(tmp_path, source_sha256=fingerprint(resolve("zoo:hsm-lm")))
    with pytest.raises(UsageError, match="not for a decoding step"):
        export("zoo:hsm-lm", output=tmp_path / "x.onnx", precision="fp16", decode=True, precision_plan=plan)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": "something"}, "is not a precision plan"),
        ({"schema_version": 9}, "schema version 9"),
        ({"precision": "int4"}, "precision must be one of 'fp16', 'bf16'"),
        ({"nodes": "all"}, "nodes must be a list"),
        ({"nodes": ["layers.0.mixer"]}, r"nodes\[0\] must be an object"),
        ({"nodes": [{"name": ""}]}, r"nodes\[0\].name must be text of length >= 1"),
        ({"nodes": [{"name": 3}]}, r"nodes\[0\].name must be text"),
        ({"nodes": [{"name": "a"}, {"name": "a"}]}, "lists a node twice"),
        ({"target": "small"}, "target must be a number"),
        ({"source_sha256": None}, "source_sha256 must be text"),
    ],
)
def test_a_malformed_plan_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        read_plan(written(tmp_path, **changes))
    assert caught.value.hint


def test_no_json_and_no_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(BadInputError, match="does not exist"):
        read_plan(path)
    path.write_text("{")
    with pytest.raises(BadInputError, match="not valid JSON"):
        read_plan(path)
