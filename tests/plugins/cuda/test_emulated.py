"""Whole models through the CUDA kernels' own source, compiled for the CPU with the host shim."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.plugins.native import needs, program

import hsm_export
from hsm_models import zoo

MODELS = tuple(name for name in zoo.names() if name != "baseline-softmax")


@pytest.fixture(scope="module")
def library() -> Path:
    from tests.plugins.native import built

    return built("emulated/libhsm_onnxruntime_emulated.so")


@pytest.fixture(autouse=True)
def _chosen(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSM_EMULATED_LIBRARY", str(library))


@needs("nm")
def test_no_cpu_kernel_is_linked(library: Path) -> None:
    symbols = subprocess.run(
        [str(program("nm")), "--demangle", "--defined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"\bhsm::cuda::shift_mix_launch\(", symbols)
    assert not re.search(
        r"\bhsm::(token_shift|shift_mix|taylor_shift|causal_taylor_shift|expert_matmul)(_sum|_naive)*\(", symbols
    )
    assert "hwy::" not in symbols


def _validate(name: str, precision: str, folder: Path, shapes: list[tuple[int, int]]) -> None:
    path = folder / f"{name}.onnx"
    hsm_export.export(f"zoo:{name}", output=path, precision=precision)
    fixed = name == "taylor-shift-digits"
    result = hsm_export.validate(path, f"zoo:{name}", runtimes=("cuda-emulated",), shapes=None if fixed else shapes)
    reports = {report.runtime: report for report in result.runtimes}
    assert "cuda-emulated" in reports
    assert result.passed, result


@pytest.mark.parametrize(
    ("name", "precision"), [("hsm-lm", "fp16"), ("switch-head-lm", "bf16"), ("taylor-shift-digits", "fp32")]
)
def test_zoo_model(name: str, precision: str, tmp_path: Path) -> None:
    _validate(name, precision, tmp_path, [(1, 5)])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_zoo_model_in_every_precision(name: str, precision: str, tmp_path: Path) -> None:
    _validate(name, precision, tmp_path, [(1, 1), (2, 17), (1, 64)])


@pytest.mark.slow
@pytest.mark.parametrize("tactic", ["direct", "efficient"])
def test_tactic_runs_the_whole_model(tactic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSM_EMULATED_TACTIC", tactic)
    _validate("taylor-shift-digits", "fp32", tmp_path, [])
