"""Runs that somebody else recorded: held to the tolerances of a runtime, or refused when they prove nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import hsm_export
from hsm_export.errors import BadInputError, UsageError
from hsm_export.onnx_model.model_file import open_model
from hsm_export.validation.recorded import NAME, read_run


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("recorded") / "model.onnx"
    hsm_export.export(torch.nn.Linear(4, 3), torch.randn(2, 4), path, input_names=["x"], output_names=["y"])
    return path


def recorded(file: Path, folder: Path, change: float = 0.0, **names: str) -> Path:
    """Record a run of the module; `change` is added to one number."""
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3)
    x = torch.randn(5, 4)
    y = module(x).detach().numpy().copy()
    y[2, 1] += change
    np.savez(folder / "run.npz", **{names.get("x", "input_0"): x.numpy(), names.get("y", "output_0"): y})
    return folder / "run.npz"


@pytest.mark.parametrize("names", [{}, {"x": "x", "y": "y"}], ids=["by place", "by name"])
def test_the_same_numbers_pass(file: Path, names: dict[str, str], tmp_path: Path) -> None:
    result = hsm_export.validate(file, runtimes=["ort"], check=recorded(file, tmp_path, **names))
    assert result.passed and {report.runtime: report.verdict for report in result.runtimes}[NAME] == "passed"


def test_another_number_fails_and_is_located(file: Path, tmp_path: Path) -> None:
    result = hsm_export.validate(file, runtimes=["ort"], check=recorded(file, tmp_path, change=1e-4))
    assert not result.passed and {report.runtime: report.verdict for report in result.runtimes}["ort"] == "passed"
    (failure,) = result.failures
    assert failure.runtime == NAME and failure.errors.worst_index == (2, 1)


def test_another_shape_fails(file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "run.npz", x=np.zeros((2, 4), np.float32), y=np.zeros((2, 2), np.float32))
    result = hsm_export.validate(file, runtimes=["ort"], check=tmp_path / "run.npz")
    assert not result.passed and "shape" in result.summary


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input_0": np.zeros((1, 4))}, "lacks any output: y"),
        ({"output_0": np.zeros((1, 3))}, "lacks x"),
        ({"x": np.zeros((1, 4)), "output_1": np.zeros(3)}, "output_1 belongs to no"),
        ({"x": np.zeros((1, 4)), "input_0": np.zeros((1, 4))}, "input_0 belongs to no"),
        ({"x": np.zeros((1, 4)), "z": np.zeros(3)}, "the array z belongs to no"),
        ({"x": np.zeros((1, 4)), "y": np.zeros((1, 3), np.float16)}, "too coarse"),
    ],
)
def test_runs_that_prove_nothing_are_refused(
    arrays: dict[str, np.ndarray], message: str, file: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "run.npz", **arrays)
    with pytest.raises(BadInputError, match=message):
        read_run(open_model(file), tmp_path / "run.npz")


def test_inputs_beside_a_recorded_run_are_refused(file: Path, tmp_path: Path) -> None:
    path = recorded(file, tmp_path)
    with pytest.raises(UsageError, match="contradict each other"):
        hsm_export.validate(file, check=path, inputs=path)
