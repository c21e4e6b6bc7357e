"""Files appear whole or not at all, and are the same bytes in every run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from tests.exporter.exporting.harness import assert_agrees
from tests.exporter.exporting.models import language_model
from tests.exporter.exporting.test_models import tokens

import hsm_export
from hsm_export import exporting
from hsm_export.errors import BadInputError, NumbersDifferError
from hsm_models import HSMConfig
from hsm_models.checkpoint import save_checkpoint


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_same_bytes_in_another_process_with_the_weights_beside(tmp_path: Path) -> None:
    model = language_model(HSMConfig(), seed=4)
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(model, checkpoint)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    result = hsm_export.export(checkpoint, output=here / "m.onnx", precision="bf16", external_data=True)
    options = {"output": str(there / "m.onnx"), "precision": "bf16", "external_data": True}
    code = f"import hsm_export; hsm_export.export({str(checkpoint)!r}, **{options!r})"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=there)
    assert listing(here) == listing(there) == {"m.onnx", "m.onnx.data", "m.onnx.json"}
    for name in listing(here):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name

    assert result.external_data == here / "m.onnx.data"
    assert result.bytes == result.path.stat().st_size + result.external_data.stat().st_size
    locations = {
        entry.value
        for tensor in onnx.load(result.path, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations == {"m.onnx.data"}
    assert_agrees(result.path, model, "bf16", (tokens(2, 12),))
    report = json.loads(result.report.read_text())
    assert report["path"] == "m.onnx" and report["external_data"] == "m.onnx.data"
    assert [check["shapes"] for check in report["checks"]] == [{"tokens": [2, 9]}, {"tokens": [3, 7]}]
    for check in report["checks"]:
        assert 0 <= check["max_abs_error"] <= check["allowed"]
        assert check["torch_max_abs_error"] is not None


def test_a_failed_check_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m.onnx"
    target.write_text("precious")
    real = exporting.checking.check_in_subprocess

    def off_by_one(*arguments: object) -> object:
        return [{name: array + 1 for name, array in run.items()} for run in real(*arguments)]

    monkeypatch.setattr(exporting.checking, "check_in_subprocess", off_by_one)
    with pytest.raises(NumbersDifferError, match=r"output 'logits' for tokens .* is off by"):
        hsm_export.export(language_model(HSMConfig()), output=target)
    assert target.read_text() == "precious"
    assert listing(tmp_path) == {"m.onnx"}


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    model = language_model(HSMConfig())
    with pytest.raises(BadInputError, match="is a directory"):
        hsm_export.export(model, output=tmp_path)
    with pytest.raises(BadInputError, match="does not exist"):
        hsm_export.export(model, output=tmp_path / "missing" / "m.onnx")
    assert listing(tmp_path) == set()


RUN = """
import resource, signal, sys
from hsm_export.cli import run
limit = {limit}
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(run(["export", {checkpoint!r}, "-o", {target!r}]))
"""


def start(checkpoint: Path, target: Path, limit: int = 0) -> subprocess.Popen[str]:
    code = RUN.format(limit=limit, checkpoint=str(checkpoint), target=str(target))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(language_model(HSMConfig()), checkpoint)
    process = start(checkpoint, tmp_path / "m.onnx", limit=4096)
    stdout, stderr = process.communicate()
    assert process.returncode == 4, stderr
    assert stdout == ""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "File too large" in errors[0]
    assert "Traceback" not in stderr
    assert listing(tmp_path) == {"model.safetensors"}


@pytest.mark.parametrize("phase", ["tracing", pytest.param("checking", marks=pytest.mark.slow)])
def test_ctrl_c_leaves_nothing(phase: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(language_model(HSMConfig()), checkpoint)
    process = start(checkpoint, tmp_path / "m.onnx")
    assert process.stderr is not None
    for line in process.stderr:
        if phase in line:
            break
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.strip().splitlines()[-1] == "interrupted"
    assert "Traceback" not in stderr
    assert listing(tmp_path) == {"model.safetensors"}


@pytest.mark.slow  # the same road as Ctrl-C
def test_a_polite_kill_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(language_model(HSMConfig()), checkpoint)
    command = [sys.executable, "-m", "hsm_export", "export", str(checkpoint), "-o", str(tmp_path / "m.onnx")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "checking" in line:
            break
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert listing(tmp_path) == {"model.safetensors"}
