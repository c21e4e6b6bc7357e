"""PyTorch modules become graphs whose mixers are nodes of domain `hsm`."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from tests.exporter.opset.harness import run_onnx_runtime
from torch import Tensor, nn

from hsm_models import ops
from hsm_operators import OPERATORS, functions_for, translation_table


class EveryOperator(nn.Module):
    """Calls each operator once, on tokens (B,T,12)."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.temperature = nn.Parameter(torch.rand(12)), nn.Parameter(torch.rand(3) + 0.5)
        self.into, self.out = nn.Parameter(torch.randn(3, 4, 12, 4)), nn.Parameter(torch.randn(3, 4, 4, 12))

    def forward(self, x: Tensor, ring: Tensor, position: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        shifted, ring = ops.token_shift_cached(ops.token_shift(x, [2, 1]), ring, position, lengths, [1, 3])
        mixed, ring = ops.shift_mix_cached(shifted, self.alpha, self.alpha, ring, position, lengths, [3])
        heads = ops.shift_mix(mixed, self.alpha, self.alpha, [1, 5, 2]).unflatten(2, (3, 4))
        state, norm = x.new_zeros(x.shape[0], 3, 15, 4), x.new_zeros(x.shape[0], 3, 15)
        causal, state, norm = ops.causal_taylor_shift(
            heads, heads, heads, self.temperature, state, norm, lengths, normalize=True
        )
        full = ops.taylor_shift(causal, heads, causal, self.temperature, True, output_norm=True, form="direct")
        masked = ops.taylor_shift_masked(full, full, heads, self.temperature, lengths, False, False)
        routed = ops.expert_matmul(masked.flatten(2), masked, self.into, 2)
        return ops.expert_matmul_sum(routed, heads, self.out, 3), ring, state, norm


def _arguments(batch: int, length: int) -> tuple[Tensor, ...]:
    rows = torch.full((batch,), length)
    return torch.randn(batch, length, 12), torch.randn(batch, 6, 12), torch.arange(batch), rows


@pytest.fixture(scope="module")
def exported() -> tuple[nn.Module, onnx.ModelProto]:
    torch.manual_seed(0)
    module = EveryOperator().eval()
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        module,
        _arguments(2, 7),
        dynamo=True,
        opset_version=21,
        custom_translation_table=translation_table(),
        dynamic_shapes={
            "x": {0: dynamic, 1: dynamic},
            "ring": {0: dynamic},
            "position": {0: dynamic},
            "lengths": {0: dynamic},
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
        arguments = _arguments(batch, length)
        feed = {value.name: tensor.numpy() for value, tensor in zip(model.graph.input, arguments, strict=True)}
        with torch.no_grad():
            expected = module(*arguments)
        for actual, reference in zip(run_onnx_runtime(model, feed), expected, strict=True):
            scale = float(reference.abs().max())
            np.testing.assert_allclose(actual, reference.numpy(), rtol=1e-4, atol=1e-4 * scale)


def test_every_operator_of_the_opset_has_a_torch_operator_with_the_same_argument_names() -> None:
    for operator in OPERATORS.values():
        schema = getattr(torch.ops.hsm, operator.torch_name).default._schema
        wanted = [value.name for value in operator.inputs] + [attribute.name for attribute in operator.attributes]
        assert [argument.name for argument in schema.arguments if argument.name != "form"] == wanted
        assert len(schema.returns) == len(operator.outputs)
