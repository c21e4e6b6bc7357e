"""`export` and `validate` cannot disagree: what one lets through, the other passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import hsm_export
from hsm_models import HSM, TaylorShift


def stack(depth: int, seed: int) -> nn.Module:
    """Return mixers with norms between them: small inputs lead to near constants, of which few numbers are left."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [TaylorShift(16, heads=2), nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(16, 1)).eval()


def shifted(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(HSM(16, shifts=(1, 2)), nn.LayerNorm(16), nn.Linear(16, 3)).eval()


TAYLOR, SHIFTED = lambda: stack(3, 14), lambda: shifted(1)


@pytest.mark.parametrize(
    ("make", "precision"),
    [
        pytest.param(SHIFTED, "fp32", id="hsm-fp32"),
        pytest.param(SHIFTED, "fp16", id="hsm-fp16", marks=pytest.mark.slow),
        pytest.param(SHIFTED, "bf16", id="hsm-bf16", marks=pytest.mark.slow),
        pytest.param(TAYLOR, "fp32", id="taylor-fp32", marks=pytest.mark.slow),
        pytest.param(TAYLOR, "fp16", id="taylor-fp16", marks=pytest.mark.slow),
        pytest.param(TAYLOR, "bf16", id="taylor-bf16"),  # the case in which both once disagreed
    ],
)
def test_what_exports_also_validates(make: object, precision: str, tmp_path: Path) -> None:
    assert callable(make)
    module, path = make(), tmp_path / "m.onnx"
    exported = hsm_export.export(module, (torch.randn(2, 5, 16),), path, precision=precision)
    result = hsm_export.validate(path, against=module, runtimes=["ort"])
    assert result.passed, result.summary
    (report,) = [item for item in result.runtimes if item.runtime == "ort"]
    allowed = {check.output: check.allowed for check in exported.checks}
    for item in report.worst:
        # The cases differ, and with them the largest number; the rule does not.
        assert item.threshold.value < 30 * allowed[item.output] and allowed[item.output] < 30 * item.threshold.value


def test_a_wrong_weight_fails_both(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    module, path = shifted(2), tmp_path / "m.onnx"
    hsm_export.export(module, (torch.randn(2, 5, 16),), path)
    model = onnx.load(str(path))
    tensor = next(item for item in model.graph.initializer if "2.weight" in item.name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.001, tensor.name))
    onnx.save(model, str(path))
    assert hsm_export.validate(path, against=module, runtimes=["ort"]).verdict == "failed"


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = HSM(16, shifts=(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.rand_like(x)
        return self.mix(x + noise)


def test_a_forward_that_draws_is_refused_by_its_line(tmp_path: Path) -> None:
    from hsm_export.errors import BadInputError

    with pytest.raises(BadInputError, match=r"test_agreement.py:\d+: noise = torch.rand_like\(x\)"):
        hsm_export.export(Noisy().eval(), (torch.randn(2, 5, 16),), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_nobody_is_judged_by_a_module_that_draws(tmp_path: Path) -> None:
    module, path = nn.Sequential(HSM(16, shifts=(1, 2))).eval(), tmp_path / "m.onnx"
    hsm_export.export(module, (torch.randn(2, 5, 16),), path)
    noisy = Noisy().eval()
    noisy.mix.load_state_dict(module[0].state_dict())
    result = hsm_export.validate(path, against=noisy, runtimes=["ort"])
    assert result.verdict == "not judged" and not result.passed
    assert "noise = torch.rand_like(x)" in result.unjudged[0]
