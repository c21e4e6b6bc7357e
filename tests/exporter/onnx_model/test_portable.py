"""Portable files: ONNX's own operators alone, the same numbers, and choices that can still be watched and forced."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from tests.exporter.exporting.models import MIXERS, language_model

import hsm_export
from hsm_export.errors import BadInputError
from hsm_export.onnx_model.inlined_mixers import METADATA, SEPARATOR, inlined_mixers
from hsm_export.runtimes.portable_model import portable_model
from hsm_export.runtimes.routing import instrument

SOME = [
    ("hsm-gated2", "fp16"),
    ("taylor-shift", "fp32"),
    ("switch-head", "bf16"),
    pytest.param("hybrid", "fp32", marks=pytest.mark.slow),
]


def exported(name: str, path: Path, **options: object) -> tuple[torch.nn.Module, onnx.ModelProto]:
    model = language_model(*MIXERS[name])
    hsm_export.export(model, output=path, portable=True, **options)  # type: ignore[arg-type]
    return model, onnx.load(path)


@pytest.mark.parametrize(("name", "precision"), SOME)
def test_a_portable_file(name: str, precision: str, tmp_path: Path) -> None:
    model, file = exported(name, tmp_path / "m.onnx", precision=precision)
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", 18)]
    assert not file.functions
    types = {node.op_type for node in file.graph.node}
    assert not types & {"Scan", "Loop", "If", "Constant"}
    names = [node.name for node in file.graph.node]
    assert all(names) and len(set(names)) == len(names)
    mixers = inlined_mixers(file)
    assert mixers and all(any(mixer.owns(node) for node in file.graph.node) for mixer in mixers)
    runtimes = ["ort", "onnx-reference"]
    result = hsm_export.validate(tmp_path / "m.onnx", model, runtimes=runtimes, shapes=[(1, 1), (2, 13), (1, 140)])
    assert result.passed, result.summary


def test_a_file_of_another_opset_becomes_portable(tmp_path: Path) -> None:
    """Runtimes that know no functions get older files so, and files with operators of others beside ours."""
    hsm_export.export(language_model(*MIXERS["taylor-shift"]), output=tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    for entry in (*model.opset_import, *(e for function in model.functions for e in function.opset_import)):
        entry.version = 21 if entry.domain == "" else entry.version
    made = portable_model(model, tmp_path)
    onnx.checker.check_model(made, full_check=True)
    assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", 21)]
    model.opset_import.add(domain="com.microsoft", version=1)
    gelu = next(node for node in model.graph.node if node.op_type == "Erf")
    gelu.op_type, gelu.domain = "Gelu", "com.microsoft"
    assert {entry.domain for entry in portable_model(model, tmp_path).opset_import} == {"", "com.microsoft"}


def test_weights_lie_as_products_take_them(tmp_path: Path) -> None:
    model, file = exported("taylor-shift", tmp_path / "m.onnx")
    weights = {tensor.name: tensor for tensor in file.graph.initializer}
    products = [node for node in file.graph.node if node.op_type == "MatMul" and SEPARATOR not in node.name]
    assert products and all(node.input[1] in weights for node in products)
    stored = dict(model.named_parameters())
    name = next(name for name in weights if name.endswith(".T"))
    found = torch.from_numpy(onnx.numpy_helper.to_array(weights[name]).copy())
    assert torch.equal(found, stored[name.removesuffix(".T")].detach().T)


def test_choices_are_watched_and_forced(tmp_path: Path) -> None:
    _, file = exported("switch-head", tmp_path / "m.onnx")
    changed, routed = instrument(file)
    assert [item.name for item in routed] == [mixer.name for mixer in inlined_mixers(file) if mixer.routing]
    onnx.checker.check_model(changed, full_check=True)
    assert {item.logits for item in routed} <= {value.name for value in changed.graph.output}
    assert {item.mask for item in routed} <= {value.name for value in changed.graph.input}


def test_a_portable_step_decodes(tmp_path: Path) -> None:
    model, file = exported("taylor-shift", tmp_path / "m.onnx", decode=True)
    assert {node.domain for node in file.graph.node} == {""}
    assert hsm_export.validate(tmp_path / "m.onnx", model, runtimes=["ort"]).passed


def test_inspect_still_names_the_mixers(tmp_path: Path) -> None:
    exported("hsm-gated2", tmp_path / "m.onnx")
    assert any(row.name.endswith("mixer") for row in hsm_export.inspect(tmp_path / "m.onnx").mixers)


@pytest.mark.parametrize(
    "text",
    ["[", "3", '[{"name": 1}]', '[{"name": "a", "operator": "b", "inputs": [], "outputs": [], "attributes": 1}]'],
)
def test_malformed_descriptions_are_refused(text: str, tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.metadata_props.add(key=METADATA, value=text)
    with pytest.raises(BadInputError, match="is not valid"):
        inlined_mixers(model)


def test_a_description_that_the_graph_contradicts_is_refused(tmp_path: Path) -> None:
    _, file = exported("switch-head", tmp_path / "m.onnx")
    entry = next(entry for entry in file.metadata_props if entry.key == METADATA)
    entry.value = json.dumps([{**item, "name": "elsewhere"} for item in json.loads(entry.value)])
    with pytest.raises(BadInputError, match="elsewhere reads no"):
        instrument(file)


def test_gemm_becomes_a_product_and_a_sum(tmp_path: Path) -> None:
    layers = torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2, bias=False)
    module, path = torch.nn.Sequential(*layers).eval(), tmp_path / "m.onnx"
    hsm_export.export(module, (torch.randn(5, 4),), path, dynamic={"input": {0: "batch"}}, portable=True)
    model = onnx.load(path)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add", "Tanh", "MatMul"]
    assert {tensor.name for tensor in model.graph.initializer} >= {"0.weight.T", "0.bias", "2.weight.T"}
    assert hsm_export.validate(path, module, runtimes=["ort"]).passed
