"""Whatever is held to PyTorch is held to its reference maths: no command lets a fused kernel judge a fused kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import hsm_export
from hsm_export.runtimes.reference_maths import reference_maths
from hsm_models import HSMConfig, LayerConfig, ModelConfig, SwitchHeadConfig, TaylorShiftConfig, build_model
from hsm_models.checkpoint import save_checkpoint
from hsm_operators import use_kernels
from hsm_operators.installation import KERNELS, kernels_path
from hsm_operators.kernels import Kernel
from hsm_operators.switch import kernels_wanted

EXPORTER = Path(hsm_export.__file__).parent

# One mixer of each family.
CONFIG = ModelConfig(
    task="language_model",
    width=8,
    vocab_size=256,
    layers=(
        LayerConfig(HSMConfig(shifts=(1, 2))),
        LayerConfig(TaylorShiftConfig(heads=2, causal=True)),
        LayerConfig(SwitchHeadConfig(heads=2, experts=3, active=1)),
    ),
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators whose kernels were run on PyTorch's tensors."""
    made: list[str] = []
    run = Kernel.__call__

    def spy(self: Kernel, *rest: Any) -> Any:
        made.append(self.operator.name)
        return run(self, *rest)

    monkeypatch.setattr(Kernel, "__call__", spy)
    return made


@pytest.mark.skipif(kernels_path() is None, reason=f"this installation has no {KERNELS}; `hsm-export doctor` says why")
def test_no_command_runs_a_kernel_in_pytorch(calls: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(CONFIG).eval()
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(model, checkpoint)
    with use_kernels():
        with torch.no_grad():  # short sequences of CausalTaylorShift are trained in PyTorch
            model(torch.zeros(1, 3, dtype=torch.int64))
        assert {"ShiftMix", "Attention", "CausalTaylorShift", "ExpertMatMul", "ExpertMatMulSum"} == set(calls)
        calls.clear()
        for decode in (False, True):
            file = tmp_path / f"{decode}.onnx"
            hsm_export.export(checkpoint, output=file, precision="bf16", decode=decode)
            assert hsm_export.validate(file, against=checkpoint, runtimes=["torch", "ort"]).passed
            options = hsm_export.DiffOptions(layers=True, bisect=not decode, generate=2)
            hsm_export.diff(file, ["torch", "ort"], against=checkpoint, options=options)
        hsm_export.generate(checkpoint, "a", max_tokens=2, runtime="torch")
    assert calls == []


def test_the_switch_is_off_whatever_the_user_says() -> None:
    with use_kernels(), reference_maths():
        assert not kernels_wanted()
        assert torch.is_inference_mode_enabled()


def test_every_evaluation_of_a_model_goes_through_it() -> None:
    own = EXPORTER / "runtimes" / "reference_maths.py"
    others = [path for path in EXPORTER.rglob("*.py") if path != own and "inference_mode" in path.read_text()]
    assert others == []
