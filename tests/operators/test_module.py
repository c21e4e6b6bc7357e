"""A module as an operator: its parameters are inputs of the node."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import hsm_export
from hsm_export import OperatorError, operator


class Smooth(nn.Module):
    """y = W (mean of all tokens so far) + b."""

    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width, bias=bias)
        self.register_buffer("scale", torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
        return self.inner(x.cumsum(1) / count) * self.scale


SIGNATURE = "x[B,T,D] -> y[B,T,D]"


class Two(nn.Module):
    """Two of them, with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = operator("samples::Smooth", SIGNATURE, Smooth(8))
        self.second = operator("samples::Smooth", SIGNATURE, Smooth(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def test_its_parameters_are_inputs_and_have_gradients() -> None:
    plain = Smooth(8)
    made = operator("samples::Smooth", SIGNATURE, plain)
    x = torch.randn(2, 5, 8)
    assert torch.equal(made(x), plain(x)) and torch.equal(made(x=x), plain(x))
    assert [name for name, _ in made.named_parameters()] == ["module.inner.weight", "module.inner.bias"]
    made(x).square().sum().backward()
    found = plain.inner.weight.grad
    assert found is not None
    plain.zero_grad()
    plain(x).square().sum().backward()
    torch.testing.assert_close(found, plain.inner.weight.grad)
    other = copy.deepcopy(made)
    with torch.no_grad():
        other.module.inner.weight.zero_()
    assert not torch.equal(other(x), made(x))


def test_it_is_exported_with_one_body_for_all_modules_of_its_structure(tmp_path: Path) -> None:
    module = Two().eval()
    path = tmp_path / "m.onnx"
    hsm_export.export(module, (torch.randn(2, 5, 8),), path, precision="bf16")
    model = onnx.load(path)
    assert [function.name for function in model.functions] == ["Smooth"]
    nodes = {node.name: list(node.input) for node in model.graph.node if node.domain == "samples"}
    assert nodes["first"][1:] == ["first.module.inner.weight", "first.module.inner.bias", "first.module.scale"]
    checked = hsm_export.validate(path, module, runtimes=["ort", "onnx-reference"], shapes=[(2, 7), (1, 1)])
    assert checked.passed, checked.summary


def test_another_structure_needs_another_name() -> None:
    operator("samples::Smooth", SIGNATURE, Smooth(8))
    with pytest.raises(
        OperatorError, match="defined again by a function that captures other values, or by another module"
    ):
        operator("samples::Smooth", SIGNATURE, Smooth(8, bias=False))
    assert operator("samples::SmoothPlain", SIGNATURE, Smooth(8, bias=False))(torch.randn(1, 2, 8)).shape == (1, 2, 8)


def test_what_is_no_operator_is_refused() -> None:
    with pytest.raises(OperatorError, match="1 is a Dropout, which computes something else in training"):
        operator("samples::Bad", SIGNATURE, nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1)))
    with pytest.raises(OperatorError, match="forward takes x, its signature z"):
        operator("samples::Bad", "z[B,T,D] -> y[B,T,D]", Smooth(8))
