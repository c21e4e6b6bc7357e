"""Recurrent layers of PyTorch become ONNX's, for any length, with the very numbers of PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from tests.exporter.exporting.harness import assert_all_agree
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import hsm_export
from hsm_export.errors import BadInputError


class Layer(nn.Module):
    """A recurrent layer alone, with or without a first state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return self.layer(x) if state is None else self.layer(x, state)


class Packed(nn.Module):
    """Packs its input by lengths, and returns everything that a recurrent layer gives."""

    def __init__(self, layer: nn.Module, total: bool) -> None:
        super().__init__()
        self.layer, self.total = layer, total

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, state = self.layer(packed)
        total = x.shape[1] if self.total else None
        padded, counts = pad_packed_sequence(y, batch_first=True, total_length=total, padding_value=-1.0)
        return padded, state, counts


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.GRU(4, 6, 2, batch_first=True, bidirectional=True), "GRU"),
        (nn.LSTM(4, 6, 2, batch_first=True, bias=False), "LSTM"),
        (nn.RNN(4, 6, batch_first=True, bidirectional=True, nonlinearity="relu"), "RNN"),
    ],
    ids=["gru", "lstm", "rnn"],
)
def test_layers_take_any_length(layer: nn.Module, name: str, tmp_path: Path) -> None:
    result = hsm_export.export(Layer(layer), (torch.randn(1, 6, 4),), tmp_path / "m.onnx")
    assert result.inputs[0].shape == ("batch", "length", 4) and not result.fixed
    assert name in operators(result.path)
    assert_all_agree(result.path, Layer(layer), (torch.randn(3, 11, 4),), (torch.randn(1, 1, 4),))


def test_first_states_and_projections(tmp_path: Path) -> None:
    module = Layer(nn.LSTM(4, 6, 2, bidirectional=True, proj_size=3))
    examples = torch.randn(6, 2, 4), (torch.randn(4, 2, 3), torch.randn(4, 2, 6))
    dynamic = {"x": {0: "length", 1: "batch"}}
    result = hsm_export.export(module, examples, tmp_path / "m.onnx", dynamic=dynamic)
    assert [spec.shape for spec in result.inputs] == [("length", "batch", 4), (4, "batch", 3), (4, "batch", 6)]
    assert result.fixed[0] == "state_0: dimension 0 fixed at 4, the module works with no other size"
    assert_all_agree(result.path, module, (torch.randn(9, 3, 4), (torch.randn(4, 3, 3), torch.randn(4, 3, 6))))


def test_a_first_state_of_one_row_and_layer(tmp_path: Path) -> None:
    module = Layer(nn.GRU(4, 6, batch_first=True))
    result = hsm_export.export(module, (torch.randn(1, 5, 4), torch.randn(1, 1, 6)), tmp_path / "m.onnx")
    assert [spec.shape for spec in result.inputs] == [("batch", "length", 4), (1, "batch", 6)]
    assert_all_agree(result.path, module, (torch.randn(3, 2, 4), torch.randn(1, 3, 6)))


@pytest.mark.parametrize("total", [False, True])
def test_packed_sequences(total: bool, tmp_path: Path) -> None:
    size = {"proj_size": 3} if total else {}
    module = Packed(nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True, **size), total)
    examples = torch.randn(3, 6, 4), torch.tensor([2, 6, 3])
    result = hsm_export.export(module, examples, tmp_path / "m.onnx")
    assert [spec.shape for spec in result.inputs] == [("batch", "length", 4), ("batch",)]
    assert result.inputs[1].counts == "length"
    longest = torch.randn(2, 9, 4), torch.tensor([5, 9])
    shorter = torch.randn(3, 9, 4), torch.tensor([5, 1, 7])
    assert_all_agree(result.path, module, longest, shorter)


class Unpadded(nn.Module):
    """Returns a packed sequence."""

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


def test_a_packed_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="Unpadded returns a packed sequence") as caught:
        hsm_export.export(Unpadded(), (torch.randn(2, 6, 4), torch.tensor([6, 2])), tmp_path / "m.onnx")
    assert caught.value.hint is not None and "pad_packed_sequence" in caught.value.hint


def test_half_precision(tmp_path: Path) -> None:
    module = Layer(nn.GRU(4, 6, batch_first=True))
    result = hsm_export.export(module, (torch.randn(2, 6, 4),), tmp_path / "m.onnx", precision="fp16")
    assert_all_agree(result.path, module, (torch.randn(3, 11, 4),), tolerance=4e-3)
