"""Whole models through the CUDA kernels' own source, compiled for the CPU with the host shim."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import onnx
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
    ("name", "precision"),
    [
        ("hsm-lm", "fp16"),
        ("taylor-shift-digits", "fp32"),
        pytest.param("switch-head-lm", "bf16", marks=pytest.mark.slow),
    ],
)
def test_zoo_model(name: str, precision: str, tmp_path: Path) -> None:
    _validate(name, precision, tmp_path, [(1, 5)])


def _departure(path: Path, checkpoint: str, length: int) -> str | None:
    """Say where the runtime first leaves the tolerance, with the result of every `hsm` operator made visible."""
    from hsm_export.onnx_model.model_file import open_model
    from hsm_export.runtimes import get
    from hsm_export.runtimes.routing import instrument
    from hsm_export.runtimes.runtime import RunContext
    from hsm_export.torch_model.torch_source import open_source
    from hsm_export.validation.cases import shaped_cases
    from hsm_export.validation.localising import first_departure

    file = open_model(path)
    model, routed = instrument(file.model)
    context = RunContext(model, file.path.parent, file.precision, open_source(checkpoint).load, routed)
    runtimes = (get("torch64"), get("torch"), get("cuda-emulated"))
    return first_departure(file, context, runtimes, shaped_cases(file, [(1, length)])[0])


@pytest.mark.parametrize("name", ["hsm-hybrid-lm", pytest.param("taylor-shift-lm", marks=pytest.mark.slow)])
def test_every_layer_agrees(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.onnx"
    hsm_export.export(f"zoo:{name}", output=path)
    operators = [node.name for node in onnx.load(path).graph.node if node.domain == "hsm"]
    said = _departure(path, f"zoo:{name}", 7)
    assert said is not None
    assert said.startswith(f"up to {operators[-1]} ")


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
