"""Every model of the zoo, bundled in every precision, passes its own self-test with the fused kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

import hsm_export
from hsm_export.bundling import bundle, verify_bundle
from hsm_export.runtimes import get
from hsm_models import zoo
from hsm_models.checkpoint import read_config

FUSED = get("ort-fused").available()


@pytest.mark.slow
@pytest.mark.skipif(FUSED is not None, reason=f"the fused kernels do not run here: {FUSED}")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", zoo.names())
def test_self_test(tmp_path: Path, name: str, precision: str) -> None:
    model, decode = tmp_path / "model.onnx", None
    hsm_export.export(f"zoo:{name}", output=model, precision=precision)
    if read_config(zoo.path(name)).task == "language_model":
        decode = tmp_path / "decode.onnx"
        hsm_export.export(f"zoo:{name}", output=decode, precision=precision, decode=True)
    written = bundle(model, tmp_path / "zoo.hsm", decode=decode, against=f"zoo:{name}")
    checks = verify_bundle(written.bundle, self_test="ort-fused").checks
    assert {check.output for check in checks} == set(written.tolerances)
    assert all(check.compared for check in checks)
