"""Attention from one sequence to another, of other lengths and with padding, in a user's module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.exporter.exporting.harness import assert_agrees
from tests.exporter.exporting.models import randomised
from tests.shared import diagonal, made_once
from torch import Tensor, nn

import hsm_export
from hsm_models import SwitchHead

VARIANTS: dict[str, dict[str, Any]] = {
    "rope": {},
    "xl": {"positions": "xl"},
    "one selection": {"positions": "none", "same_selection": True},
    "one expert": {"experts": 1, "active": 1, "positions": "xl"},
}


class Reader(nn.Module):
    """Tokens read a source whose values are made elsewhere than its keys."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.mixer = SwitchHead(16, heads=2, causal=False, **options)

    def forward(self, target: Tensor, source: Tensor, lengths: Tensor) -> Tensor:
        return target + self.mixer(self.norm(target), lengths, key=self.norm(source), value=source)


class NormedKeys(nn.Module):
    """MoEUT's causal layer: queries, keys and routing are normed, values are not."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.mixer = SwitchHead(16, heads=2)

    def forward(self, frames: Tensor) -> Tensor:
        return frames + self.mixer(self.norm(frames), value=frames)


def example(batch: int, target: int, source: int) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.arange(batch) % source + 1
    return torch.randn(batch, target, 16), torch.randn(batch, source, 16), lengths


@pytest.mark.parametrize(("variant", "precision"), diagonal(tuple(VARIANTS), ("fp32", "fp16", "bf16")))
def test_both_lengths_are_dynamic(variant: str, precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = randomised(Reader(**VARIANTS[variant]))
    result = hsm_export.export(module, example(2, 5, 7), tmp_path / "m.onnx", precision=precision)
    assert [spec.shape for spec in result.inputs] == [
        ("batch", "length", 16),
        ("batch", "source_length", 16),
        ("batch",),
    ]
    mixers = {} if variant == "one expert" else {"mixer.value": "ExpertMatMul", "mixer.output": "ExpertMatMulSum"}
    relative = VARIANTS[variant].get("positions") == "xl"
    assert result.mixers == mixers | {"mixer": "RelativeAttention" if relative else "Attention"}
    runs = [example(*sizes) for sizes in ((1, 1, 1), (3, 11, 2), (2, 1, 13), (2, 23, 17))]
    assert_agrees(result.path, module, precision, *runs)


@pytest.mark.parametrize(
    "variant", ["rope", "xl", *(pytest.param(v, marks=pytest.mark.slow) for v in ("one selection", "one expert"))]
)
def test_every_runtime_agrees(variant: str) -> None:
    torch.manual_seed(0)
    module = randomised(Reader(**VARIANTS[variant])).eval()
    path = made_once(f"reader-{variant}.onnx", lambda path: hsm_export.export(module, example(2, 5, 7), path))
    result = hsm_export.validate(path, against=module)
    assert result.passed, result.summary


def test_values_of_another_sequence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = randomised(NormedKeys()).eval()
    hsm_export.export(module, (torch.randn(2, 6, 16),), tmp_path / "m.onnx")
    assert_agrees(tmp_path / "m.onnx", module, "fp32", *((torch.randn(2, length, 16),) for length in (1, 2, 19)))
    result = hsm_export.validate(tmp_path / "m.onnx", against=module)
    assert result.passed, result.summary
