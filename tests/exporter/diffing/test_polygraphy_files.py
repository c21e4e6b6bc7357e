"""Files for Polygraphy, read by Polygraphy's own commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tests.exporter.validation.tiny import tiny_model, write_tiny

from hsm_export.diffing.polygraphy_files import polygraphy_folder
from hsm_export.errors import BadInputError

TOKENS = [np.arange(6).reshape(2, 3), np.arange(4).reshape(1, 4)]


def polygraphy(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("polygraphy")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def write(target: Path, error: float = 0.0) -> Path:
    """Write two cases of two runtimes, one of which is off by `error` in one number."""
    rng = np.random.default_rng(0)
    with polygraphy_folder(target) as folder:
        for tokens in TOKENS:
            logits = rng.standard_normal((*tokens.shape, 5))
            other = logits.astype(np.float32)
            other[0, -1, 2] += error
            folder.add_inputs({"tokens": tokens})
            folder.add_outputs("torch64", {"logits": logits, "scale": np.array(2.0)})
            folder.add_outputs("ort", {"logits": other, "scale": np.array(2.0, np.float32)}, seconds=0.5)
        folder.add_accuracy("torch64", "ort", [{"logits": 1e-3, "scale": 1e-6}] * len(TOKENS))
    return target


def test_polygraphy_inspects_inputs_and_outputs(tmp_path: Path) -> None:
    target = write(tmp_path / "saved")
    shown = polygraphy("inspect", "data", "--all", "--show-values", target / "outputs" / "ort")
    assert shown.returncode == 0, shown.stdout
    assert "ort" in shown.stdout and "logits" in shown.stdout and "shape=(2, 3, 5)" in shown.stdout
    assert "shape=(1, 4, 5)" in shown.stdout
    inputs = polygraphy("inspect", "data", "--all", target / "inputs")
    assert inputs.returncode == 0 and "tokens" in inputs.stdout and "int64" in inputs.stdout


@pytest.mark.slow
def test_polygraphy_checks_accuracy(tmp_path: Path) -> None:
    file = write(tmp_path / "saved", error=0.01) / "accuracy" / "ort.json"
    for allowed, code in (("1e-3", 1), ("0.1", 0)):
        done = polygraphy("check", "accuracy", file, "--check-error-stat", "max", "--atol", allowed, "--rtol", "0")
        assert done.returncode == code, done.stdout + done.stderr


def test_polygraphy_runs_the_file_on_the_inputs_and_compares(tmp_path: Path) -> None:
    """`polygraphy run` finds in its own ONNX Runtime what was saved, and notices a number that is not."""
    import onnxruntime

    model = write_tiny(tiny_model(), tmp_path / "tiny.onnx")
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    for name, error in (("right", 0.0), ("wrong", 1.0)):
        with polygraphy_folder(tmp_path / name) as folder:
            for tokens in TOKENS:
                (logits,) = session.run(None, {"tokens": tokens})
                logits[0, 0, 0] += error
                folder.add_inputs({"tokens": tokens})
                folder.add_outputs("ort", {"logits": logits})
    commands = ("--onnxrt", "--load-inputs", tmp_path / "right" / "inputs", "--load-outputs")
    right = polygraphy("run", model, *commands, tmp_path / "right" / "outputs" / "ort")
    assert right.returncode == 0, right.stdout + right.stderr
    assert polygraphy("run", model, *commands, tmp_path / "wrong" / "outputs" / "ort").returncode != 0


def test_writes_bfloat16_and_replaces_its_own_folder(tmp_path: Path) -> None:
    from polygraphy.comparator import RunResults

    target = write(tmp_path / "saved")
    with polygraphy_folder(target) as folder:
        folder.add_outputs("ort", {"x": np.array([1.5], ml_dtypes.bfloat16)})
    (name, (iteration,)) = RunResults.load(str(target / "outputs" / "ort" / "0000000000.json"))[0]
    assert name == "ort" and iteration["x"].dtype == np.float32 and iteration["x"].tolist() == [1.5]
    assert not (target / "inputs").exists()


def test_leaves_nothing_behind_and_other_folders_alone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), polygraphy_folder(tmp_path / "saved") as folder:
        folder.add_inputs({"tokens": TOKENS[0]})
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInputError, match="something else is there"), polygraphy_folder(tmp_path / "mine"):
        pass
    with pytest.raises(BadInputError, match="does not exist"), polygraphy_folder(tmp_path / "no" / "such"):
        pass
    with pytest.raises(BadInputError, match="something else is there"), polygraphy_folder(tmp_path / "mine/thesis.txt"):
        pass
