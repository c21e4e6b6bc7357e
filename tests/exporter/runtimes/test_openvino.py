"""OpenVINO runs files with functions and portable ones, in float32 whatever the processor could do."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.exporter.exporting.models import MIXERS, language_model

import hsm_export
from hsm_export import runtimes
from hsm_export.errors import UsageError
from hsm_export.onnx_model.model_file import open_model
from hsm_export.runtimes.runtime import RunContext

INSTALLED = runtimes.get("openvino").available()
needs_openvino = pytest.mark.skipif(INSTALLED is not None, reason=f"{INSTALLED}")


@needs_openvino
@pytest.mark.parametrize(("name", "precision"), [("taylor-shift", "fp32"), ("hybrid", "fp32"), ("hsm-gated2", "fp16")])
@pytest.mark.parametrize("portable", [False, True])
def test_files_run(name: str, precision: str, portable: bool, tmp_path: Path) -> None:
    model, path = language_model(*MIXERS[name]), tmp_path / "m.onnx"
    hsm_export.export(model, output=path, precision=precision, portable=portable)
    result = hsm_export.validate(path, model, runtimes=["openvino"], shapes=[(1, 1), (2, 13)])
    assert result.passed, result.summary


@needs_openvino
def test_it_computes_in_what_it_is_told(tmp_path: Path) -> None:
    model, path = language_model(*MIXERS["hsm-gated2"]), tmp_path / "m.onnx"
    hsm_export.export(model, output=path)
    file = open_model(path)
    with runtimes.get("openvino").runner(RunContext(file.model, path.parent, file.precision)) as runner:
        assert runner.computes_in == "f32"


def test_other_precisions_are_refused() -> None:
    with pytest.raises(UsageError, match="does not compute in 'f8'"):
        runtimes.get("openvino:precision=f8")
    assert "bf16" in runtimes.get("openvino:precision=bf16").description
