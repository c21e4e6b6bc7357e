"""PyTorch modules become graphs whose mixers are nodes of domain `hsm`."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from tests.operators.arguments import arguments, as_tuple
from tests.operators.harness import ANY_ATTRIBUTES, run_onnx_runtime
from torch import Tensor, nn

from hsm_models import ops
from hsm_operators import OPERATORS, functions_for, translation_table


class EveryOperator(nn.Module):
    """Calls each operator once, on inputs of its own."""

    def forward(self, tensors: dict[str, dict[str, Tensor]]) -> list[Tensor]:
        results = []
        for name, operator in OPERATORS.items():
            results += as_tuple(getattr(ops, operator.torch_name)(**tensors[name], **_attributes(name)))
        return results


def _arguments(batch: int, length: int) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(batch)
    found = {
        name: arguments(operator.torch_name, generator, torch.float32, batch, length)
        for name, operator in OPERATORS.items()
    }
    for tensors in found.values():
        if "lengths" in tensors:
            tensors["lengths"][:] = length  # what lies beyond is not specified
    return {name: {port.name: found[name][port.name] for port in OPERATORS[name].inputs} for name in found}


def _attributes(name: str) -> dict[str, Any]:
    flags = {attribute.name for attribute in OPERATORS[name].attributes if attribute.is_flag}
    return {key: bool(value) if key in flags else value for key, value in ANY_ATTRIBUTES[name].items()}


@pytest.fixture(scope="module")
def exported() -> tuple[nn.Module, onnx.ModelProto]:
    torch.manual_seed(0)
    module = EveryOperator().eval()
    # C and P follow T: a cache has room for the tokens, and there are keys of all distances.
    dynamic = dict.fromkeys(("B", "T", "C", "P"), torch.export.Dim.DYNAMIC)
    program = torch.onnx.export(
        module,
        (),
        kwargs={"tensors": _arguments(2, 7)},
        dynamo=True,
        opset_version=21,
        custom_translation_table=translation_table(),
        dynamic_shapes={
            "tensors": {
                name: {
                    port.name: {axis: dynamic[dim] for axis, dim in enumerate(port.shape) if dim in dynamic}
                    for port in operator.inputs
                }
                for name, operator in OPERATORS.items()
            }
        },
        optimize=False,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    model.functions.extend(functions_for(model))
    return module, model


def test_each_operator_is_one_node_with_all_its_attributes(exported: tuple[nn.Module, onnx.ModelProto]) -> None:
    _, model = exported
    nodes = {node.op_type: node for node in model.graph.node if node.domain == "hsm"}
    assert set(nodes) == set(OPERATORS)
    for name, node in nodes.items():
        assert len(node.input) == len(OPERATORS[name].inputs)
        assert len(node.output) == len(OPERATORS[name].outputs)
        written = {attribute.name for attribute in node.attribute}
        assert written == {a.name for a in OPERATORS[name].attributes} | {"plugin_namespace", "plugin_version"}
    values = {a.name: helper.get_attribute_value(a) for a in nodes["TaylorShift"].attribute}
    assert values == {"normalize": 1, "output_norm": 1, "plugin_namespace": b"hsm", "plugin_version": b"1"}
    assert ("hsm", 2) in [(item.domain, item.version) for item in model.opset_import]


def test_the_model_is_valid_and_computes_the_same_at_other_sizes(exported: tuple[nn.Module, onnx.ModelProto]) -> None:
    module, model = exported
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    for batch, length in ((1, 1), (3, 140)):
        tensors = _arguments(batch, length)
        flat = [tensor for named in tensors.values() for tensor in named.values()]
        feed = {value.name: tensor.numpy() for value, tensor in zip(model.graph.input, flat, strict=True)}
        with torch.no_grad():
            expected = module(tensors)
        for actual, reference in zip(run_onnx_runtime(model, feed), expected, strict=True):
            scale = float(reference.abs().max())
            np.testing.assert_allclose(actual, reference.numpy(), rtol=1e-4, atol=1e-4 * scale)


def test_every_operator_of_the_opset_has_a_torch_operator_with_the_same_argument_names() -> None:
    for operator in OPERATORS.values():
        schema = getattr(torch.ops.hsm, operator.torch_name).default._schema
        wanted = [value.name for value in operator.inputs] + [attribute.name for attribute in operator.attributes]
        assert [argument.name for argument in schema.arguments if argument.name != "form"] == wanted
        assert len(schema.returns) == len(operator.outputs)
