"""A quantised file against its source: what quantising costs each layer is told from what kernels get wrong."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hsm_export import export, quantize
from hsm_export.diffing import DiffOptions, diff
from hsm_export.diffing.files.structure import diff_structure
from hsm_export.diffing.results import DiffResult


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = torch.nn.Linear(32, 72), torch.nn.Linear(72, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x)))


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    folder = tmp_path_factory.mktemp("quantised")
    network = Network().eval()
    export(network, (torch.randn(4, 32),), folder / "m.onnx")
    quantize(folder / "m.onnx", folder / "q.onnx", "error=0.1")
    return network, folder / "q.onnx"


def compared(path: Path, source: torch.nn.Module) -> DiffResult:
    feed = {"x": np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)}
    return diff(path, ["ort"], against=source, inputs=feed, options=DiffOptions(layers=True))


def test_quantising_is_no_fault_and_each_layer_says_what_it_costs(quantised: tuple[Network, Path]) -> None:
    network, path = quantised
    result = compared(path, network)
    assert result.passed and not result.culprits
    assert (result.reference, result.against) == ("onnx64", "Network")
    reports = {item.runtime: item for item in result.runtimes}
    costs = {item.node: item for item in reports["onnx64"].layers}
    for layer in ("up", "down"):
        assert 1e-4 < (costs[layer].own or 0) / costs[layer].errors.scale < 0.5
        assert costs[layer].threshold is None
    kernels = [item for item in reports["ort"].layers if item.operator in ("MatMulNBits", "MatMul", "Gemm")]
    assert kernels and all(item.own is not None and item.own < 1e-5 for item in kernels)
    assert any("quantising errs" in note and "error=0.1" in note for note in result.notes)


def test_what_quantising_does_not_explain_is_a_fault(quantised: tuple[Network, Path]) -> None:
    network, path = quantised
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.down.weight.mul_(-1)
    result = compared(path, other)
    assert not result.passed
    assert [(item.layer.node, item.word) for item in result.culprits] == [("down", "wrong maths")]


def test_two_files_say_that_the_new_one_is_quantised(quantised: tuple[Network, Path]) -> None:
    path = quantised[1]
    result = diff_structure(path.with_name("m.onnx"), path)
    (note,) = result.notes
    assert "bits a weight within error=0.1: its outputs differ by what that costs, relative error" in note
    (fact,) = [(item.old, item.new) for item in result.properties if item.name == "quantised"]
    assert fact[0] is None and "MatMulNBits" in str(fact[1])
    assert not diff_structure(path, path).notes
    # A quantiser of others leaves no plan.
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path.with_name("foreign.onnx"))
    (note,) = diff_structure(path.with_name("m.onnx"), path.with_name("foreign.onnx")).notes
    assert note == f"the new file is quantised ({fact[1]}): its outputs differ by what that costs"
