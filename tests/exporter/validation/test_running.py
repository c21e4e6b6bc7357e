"""How runtimes are run: one session draws all random roundings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.exporter.validation.tiny import tiny_model, write_tiny

from hsm_export.onnx_model.model_file import open_model
from hsm_export.runtimes import get
from hsm_export.runtimes.onnx64 import EVALUATED, DoubleRunner
from hsm_export.runtimes.runtime import RunContext
from hsm_export.validation.planning import rounding_contexts
from hsm_export.validation.running import rounded_runs


@pytest.mark.parametrize("evaluated", [False, True], ids=["one session", "onnx's evaluator"])
def test_every_choice_is_another(evaluated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if evaluated:
        monkeypatch.setattr(DoubleRunner, "_onnx_runtime", lambda *_: None)
    file = open_model(write_tiny(tiny_model(), tmp_path / "m.onnx"))
    context = RunContext(file.model, tmp_path, file.precision)
    feeds = [{"tokens": np.arange(6).reshape(2, 3)}, {"tokens": np.arange(5).reshape(1, 5)}]
    runs = list(rounded_runs(get("onnx64"), rounding_contexts(context, file), feeds))
    assert (EVALUATED in context.remarks) == evaluated
    assert len(runs) == 3 and all([item["logits"].shape[:2] for item in run] == [(2, 3), (1, 5)] for run in runs)
    for case in range(2):
        first, second, third = (run[case]["logits"] for run in runs)
        assert not any(np.array_equal(*pair) for pair in ((first, second), (first, third), (second, third)))
        np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-5)
