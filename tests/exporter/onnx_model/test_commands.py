"""One bad file is refused by the same sentence and the same exit code in every command."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.exporter.onnx_model.bad_files import BAD_FILES, calls, good_model, write_bad_file

from hsm_export import inspect
from hsm_export.cli import run
from hsm_export.errors import BadInputError
from hsm_export.onnx_model.model_file import open_model

# Commands that read an ONNX file; GOOD is a file that nothing is wrong with.
COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "BAD"),
    "validate": ("validate", "BAD", "--runtimes", "ort"),
    "diff": ("diff", "BAD", "--runtimes", "ort"),
    "diff of files": ("diff", "GOOD", "BAD"),
    "build": ("build", "BAD", "--arch", "sm86"),
    "bench": ("bench", "BAD", "--runtimes", "ort"),
    "bundle": ("bundle", "BAD"),
    "generate": ("generate", "BAD", "--prompt", "x"),
}


def said(command: str, bad: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command on a file; return its exit code and what it says is wrong."""
    onnx.save(good_model(), bad.parent / "good.onnx")
    names = {"BAD": str(bad), "GOOD": str(bad.parent / "good.onnx")}
    code = run([names.get(word, word) for word in COMMANDS[command]])
    lines = capsys.readouterr().err.splitlines()
    return code, next((line for line in lines if "error:" in line), "")


@pytest.mark.parametrize("kind", BAD_FILES)
def test_every_command_says_the_same(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "4000")
    path = tmp_path / "m.onnx"
    words = write_bad_file(kind, path)
    start = time.process_time()
    answers = {command: said(command, path, capsys) for command in COMMANDS}
    assert {code for code, _ in answers.values()} == {4}, answers
    (sentence,) = {text for _, text in answers.values()}
    assert words in sentence
    assert time.process_time() - start < 20
    assert sorted(item.name for item in tmp_path.iterdir()) == ["good.onnx", "m.onnx"]


def test_inspect_describes_what_the_others_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "4000")
    model = good_model()
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "m.onnx")
    answers = {command: said(command, tmp_path / "m.onnx", capsys) for command in COMMANDS if command != "inspect"}
    assert {code for code, _ in answers.values()} == {4}
    (sentence,) = {text for _, text in answers.values()}
    assert "is not a valid ONNX model: No Op registered for NoSuchOperator" in sentence
    assert run(["inspect", str(tmp_path / "m.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problem"] in sentence


def test_a_call_with_more_inputs_than_its_function_takes_cannot_be_run(tmp_path: Path) -> None:
    model = good_model()
    calls(model, 2, 1)
    model.graph.node[0].input.append("x")
    onnx.save(model, tmp_path / "m.onnx")
    says = "node F1 has 2 inputs and 1 outputs, its function mine::F1 1 and 1"
    with pytest.raises(BadInputError, match=says):
        open_model(tmp_path / "m.onnx")
    assert says in inspect(tmp_path / "m.onnx").to_dict()["problem"]


def test_the_good_file_is_good(tmp_path: Path) -> None:
    onnx.save(good_model(), tmp_path / "m.onnx")
    np.savez(tmp_path / "in.npz", x=np.ones((3, 6), np.float32))
    assert run(["validate", str(tmp_path / "m.onnx"), "--runtimes", "ort", "--inputs", str(tmp_path / "in.npz")]) == 0
