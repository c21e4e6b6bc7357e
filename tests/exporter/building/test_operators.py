"""Every operator of the opset, alone with its function body, builds for every architecture from sm80 on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tests.exporter.building.hand_made import ELEMENT_TYPES
from tests.operators.inputs import attributes_of, sizes_of

import hsm_export
import hsm_operators
from hsm_export.building.network import inline_named
from hsm_export.errors import BuildRefusedError

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

AMPERE_AND_LATER = ("sm80", "sm86", "sm89", "sm120", "sm121")
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
_FIXED = {"tensor(float)": FLOAT, "tensor(int64)": INT64}
_DYNAMIC = {"B": "batch", "T": "length"}


def _signature(name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return inputs and outputs as (shape, element type; None is the precision under test), and attributes."""
    operator, attributes = hsm_operators.OPERATORS[name], attributes_of(name)
    sizes = {**sizes_of(name, {}, attributes), **_DYNAMIC}
    inputs, outputs = (
        {port.name: (tuple(sizes[size] for size in port.shape), _FIXED.get(port.type)) for port in ports}
        for ports in (operator.inputs, operator.outputs)
    )
    return inputs, outputs, attributes


SIGNATURES = {name: _signature(name) for name in hsm_operators.OPERATORS}


def one_node_model(path: Path, name: str, precision: str) -> Path:
    """Write a model that is one operator with its function body; its weights are inputs too."""
    inputs, outputs, attributes = SIGNATURES[name]

    def values(tensors: dict[str, Any]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(tensor, dtype or ELEMENT_TYPES[precision], shape)
            for tensor, (shape, dtype) in tensors.items()
        ]

    node = hsm_operators.make_node(name, list(inputs), list(outputs), "layers.0.mixer", **attributes)
    graph = helper.make_graph([node], name, values(inputs), values(outputs))
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(hsm_operators.DOMAIN, hsm_operators.VERSION)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    model.functions.extend(hsm_operators.functions_for(model))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize(
    "precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow), pytest.param("bf16", marks=pytest.mark.slow)]
)
def test_an_operator_builds_from_its_body(tmp_path: Path, name: str, precision: str) -> None:
    model = one_node_model(tmp_path / "m.onnx", name, precision)
    result = hsm_export.build(
        model, architectures=AMPERE_AND_LATER, profiles=[{"batch": "1:2:4", "length": "1:16:300"}]
    )
    assert result.architectures == AMPERE_AND_LATER
    assert [tensor.name for tensor in result.outputs] == list(SIGNATURES[name][1])
    assert result.profiles[0]["length"].min == 1


def test_inlined_nodes_are_named_after_their_call(tmp_path: Path) -> None:
    model = inline_named(onnx.load(one_node_model(tmp_path / "m.onnx", "ShiftMixCached", "fp32")))
    assert not model.functions
    assert all(node.name.startswith("layers.0.mixer.") for node in model.graph.node)


def test_a_refusal_inside_a_body_names_the_mixer(tmp_path: Path) -> None:
    path = one_node_model(tmp_path / "m.onnx", "TokenShift", "fp32")
    model = onnx.load(path)
    (body,) = model.functions
    body.node.append(helper.make_node("NoSuchOperator", [body.node[-1].input[0]], ["unused"], domain="acme"))
    for imports in (body.opset_import, model.opset_import):
        imports.append(helper.make_opsetid("acme", 1))
    body.node.insert(len(body.node) - 2, body.node.pop())
    onnx.save(model, path)
    with pytest.raises(BuildRefusedError, match=r"layers\.0\.mixer\.unused, operator NoSuchOperator"):
        hsm_export.build(path)
