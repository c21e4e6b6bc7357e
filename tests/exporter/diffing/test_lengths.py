"""Numbers of valid tokens are known by what they do, not by their name: padding is nobody's fault in `diff`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hsm_export
from hsm_export.onnx_model.model_file import open_model
from hsm_models import TaylorShift


class Tagger(nn.Module):
    """Masked attention, and a head for each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = TaylorShift(8, heads=2)
        self.head = nn.Linear(8, 3)

    def forward(self, frames: Tensor, counted: Tensor) -> Tensor:
        return self.head(self.mixer(frames, counted))


@pytest.mark.parametrize("name", ["n_frames", "lengths"])
def test_diff_leaves_padding_out_whatever_the_input_is_called(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, path = Tagger().eval(), tmp_path / "m.onnx"
    example = (torch.randn(2, 7, 8), torch.tensor([7, 4]))
    hsm_export.export(module, example, path, input_names=["frames", name])
    file = open_model(path)
    assert file.lengths is not None and file.lengths.name == name
    assert file.lengths_in({name: 3}) == 3 and file.lengths_in({}) is None
    result = hsm_export.diff(path, ["ort"], against=module, options=hsm_export.DiffOptions(layers=True))
    assert result.passed, result.culprits
    layers = [layer for report in result.runtimes for layer in report.layers if layer.operator == "TaylorShiftMasked"]
    assert layers and all(layer.own is not None for layer in layers)
