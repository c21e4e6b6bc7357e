"""TaylorShift's two forms can be chosen from outside, for bidirectional mixers only."""

from __future__ import annotations

import torch
from hsm_export.runtimes.forms import evaluated_in, native_forms

from hsm_models.mixers.taylor_shift import TaylorShift


def test_form_changes_inside_the_block_only() -> None:
    module = torch.nn.Sequential(TaylorShift(8, 2), TaylorShift(8, 2, form="direct"), TaylorShift(8, 2, causal=True))
    forms = [part.form for part in module]
    with evaluated_in(module, "efficient"):
        assert [part.form for part in module] == ["efficient", "efficient", "auto"]
    assert [part.form for part in module] == forms
    with evaluated_in(module, None):
        assert [part.form for part in module] == forms


def test_only_modules_that_may_take_another_form_are_measured_twice() -> None:
    assert native_forms(TaylorShift(8, 2)) == (None, "efficient")
    assert native_forms(TaylorShift(8, 2, form="efficient")) == (None,)
    assert native_forms(TaylorShift(8, 2, causal=True)) == (None,)
    assert native_forms(torch.nn.Linear(2, 2)) == (None,)
