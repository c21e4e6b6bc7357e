"""PyTorch computes operators as their bodies do where that is asked for, and where it has a choice."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hsm_export.runtimes.evaluations import evaluated_as_body, have_evaluations
from hsm_models.mixers.taylor_shift import TaylorShift


class _Forms(TorchDispatchMode):
    """Notes the form of each call of TaylorShift."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith("hsm.taylor_shift"):
            self.seen.append(args[-1])
        return func(*args, **(kwargs or {}))


def _forms(module: torch.nn.Module, as_body: bool) -> list[str]:
    with torch.inference_mode(), _Forms() as forms, evaluated_as_body(as_body):
        module(torch.randn(1, 5, 8))
    return forms.seen


def test_inside_the_block_the_form_is_that_of_the_body() -> None:
    module = torch.nn.Sequential(TaylorShift(8, 2), TaylorShift(8, 2, form="direct"), TaylorShift(8, 2, causal=True))
    assert _forms(module, as_body=False) == ["auto", "direct"]
    assert _forms(module, as_body=True) == ["efficient", "efficient"]


def test_only_files_with_a_choice_are_measured_twice() -> None:
    assert have_evaluations([("", "MatMul"), ("hsm", "TaylorShift")])
    assert have_evaluations([("hsm", "TaylorShiftMasked")])
    assert not have_evaluations([("hsm", "CausalTaylorShift"), ("hsm", "Unknown"), ("acme", "TaylorShift")])
