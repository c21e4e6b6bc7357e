"""The traced graph becomes readable and reproducible: names, dimensions, constants, and nothing about the machine."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from hsm_export.errors import UsageError
from hsm_export.exporting.cleaning import clean
from hsm_export.exporting.inputs import bind
from hsm_export.exporting.tracing import trace
from hsm_export.formats.tensor import InputSpec
from hsm_models.ops import token_shift


class Twice(nn.Module):
    """Two `hsm` operators in one module, so that neither can have the module's name alone."""

    def forward(self, x: Tensor) -> Tensor:
        return token_shift(x, [1]) + token_shift(x, [2])


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), Twice()])
        self.register_buffer("offset", torch.full((4,), 0.25))
        with torch.no_grad():
            self.parts[1].load_state_dict(self.parts[0].state_dict())

    def forward(self, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        for part in self.parts:
            x = part(x) + self.offset
        left, right = x.chunk(2, dim=-1)
        batch, length, _ = x.shape
        return torch.cat((right, left), -1).reshape(batch, length * 4), other * 2


def cleaned(output_names: Sequence[str] = ("output_0", "output_1")) -> tuple[ir.Model, tuple[InputSpec, ...]]:
    torch.manual_seed(3)
    module = Network()
    arguments = bind(module, (torch.rand(2, 5, 4), torch.rand(3, 7, 4)))
    model = trace(module, arguments).model
    return model, clean(model, arguments.inputs, output_names, set(module.state_dict()))


def test_everything_has_a_readable_name() -> None:
    model, specs = cleaned(["mixed", "doubled"])
    names = [node.name or "" for node in model.graph]
    assert len(set(names)) == len(names)
    assert {"parts.0.MatMul", "parts.1.MatMul", "parts.2.TokenShift", "parts.2.TokenShift_2"} <= set(names)
    assert [value.name for value in model.graph.outputs] == ["mixed", "doubled"]
    for node in model.graph:
        for value in node.outputs:
            assert (value.name or "").startswith(node.name or "?") or value in model.graph.outputs
    # Equal weights are not merged: each keeps its name, and the buffer keeps its own.
    assert set(model.graph.initializers) >= {f"parts.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    assert "offset" in model.graph.initializers
    assert not any(node.op_type in ("SequenceAt", "SplitToSequence", "Identity") for node in model.graph)
    # Two inputs with sizes of their own have dimensions of their own; sizes made of them follow.
    assert [spec.shape for spec in specs] == [("batch", "length", 4), ("other_batch", "other_length", 4)]
    mixed = model.graph.outputs[0].shape
    assert mixed is not None and str(mixed[0]) == "batch" and "length" in str(mixed[1])


def test_no_trace_of_the_tracer_and_the_same_bytes_each_time() -> None:
    first, second = (ir.to_proto(cleaned()[0]) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    for node in first.graph.node:
        assert not node.metadata_props and not node.doc_string
    assert not first.metadata_props and not first.graph.metadata_props
    assert [output.name for output in first.graph.output] == ["output_0", "output_1"]


def test_a_wrong_number_of_output_names() -> None:
    with pytest.raises(UsageError, match="1 names but the module returns 2 tensors"):
        cleaned(["only"])


def test_names_of_inner_values_never_collide_with_the_borders() -> None:
    class Shadow(nn.Module):
        def forward(self, linear: Tensor) -> Tensor:
            return torch.relu(linear) * 2

    module = Shadow()
    arguments = bind(module, (torch.rand(2, 3, 4),))
    model = trace(module, arguments).model
    clean(model, arguments.inputs, ["relu"], set())
    model.opset_imports.pop("hsm", None)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["linear", "relu"]
