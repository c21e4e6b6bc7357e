"""Models train by the Triton kernels as by the reference maths: one step of each mixer that has a fused gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import hsm_models as hsm
from hsm_operators.fused_gradient import FusedGradient, has_triton

MIXERS = {
    "hsm": hsm.HSMConfig(),
    "taylor_shift": hsm.TaylorShiftConfig(heads=2, causal=True),
    "switch_head": hsm.SwitchHeadConfig(heads=2),
}


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed: pip install 'hsm-export[triton]'")
@pytest.mark.parametrize("name", MIXERS)
def test_gradients_of_a_model(name: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    compute = FusedGradient.__call__
    monkeypatch.setattr(FusedGradient, "__call__", lambda *a: (made.append(1), compute(*a))[1])
    layer = hsm.LayerConfig(MIXERS[name], hsm.MLPConfig(hidden=16))
    model = hsm.LanguageModel(hsm.ModelConfig(task="language_model", width=16, vocab_size=32, layers=(layer,)))
    rows = torch.randint(32, (2, 13), generator=generator)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    right = gradients()
    assert not made
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for used, expected in zip(gradients(), right, strict=True):
        assert (used - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1e-2)
    assert made
