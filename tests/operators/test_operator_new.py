"""`hsm-export operator new` writes folders that work at once; `operator test` says what they are."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.foreign import needs_compilers

from hsm_export.cli import run
from hsm_export.operators import creating
from hsm_export.operators.creating import new_operator
from hsm_export.operators.testing import judge_operators
from hsm_operators import OperatorError


def _json(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    code = run([str(argument) for argument in (*arguments, "--json")])
    return code, json.loads(capfd.readouterr().out)


def _verdicts(result: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(cell["implementation"], cell["dtype"]): cell["verdict"] for cell in result["cells"]}


def test_a_folder_works_at_once_and_a_fault_in_it_is_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, result = _json(capfd, "operator", "new", "fresh::ShiftedSum", "-o", tmp_path / "shifted")
    assert code == 0 and result["name"] == "fresh::ShiftedSum"
    folder = Path(result["folder"])
    assert sorted(path.name for path in folder.iterdir()) == sorted(result["files"])
    assert "y_t = x_t + gain x_{t-1}" in (folder / "README.md").read_text()
    code, result = _json(capfd, "operator", "test", folder, "--dtypes", "fp32")
    skipped = {"naive": "it has no naive.cc", "fast": "it has no cpu.cc"}
    skipped |= {"cuda": "it has no cuda.cu", "engine": "it has no cuda.cu"}
    assert code == 0 and result["passed"]
    assert _verdicts(result) == {
        **{(name, "fp32"): "passed" for name in ("torch", "onnx-reference", "ort")},
        **{(name, "fp32"): "skipped" for name in skipped},
    }
    assert {c["implementation"]: c["skipped"] for c in result["cells"] if c["skipped"]} == skipped
    oracle = folder / "oracle.py"
    oracle.write_text(oracle.read_text().replace("gain * x", "2 * gain * x"))
    code, result = _json(capfd, "operator", "test", folder, "--dtypes", "fp32", "--only", "torch")
    assert code == 5 and _verdicts(result) == {("torch", "fp32"): "failed"}
    assert run(["operator", "test", str(folder), "--dtypes", "fp32", "--only", "torch"]) == 5
    assert "fresh::ShiftedSum, torch, fp32, unequal lengths: " in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize("step", [False, True])
def test_what_is_written_is_text_of_our_own_style(step: bool, tmp_path: Path) -> None:
    result = new_operator("fresh::Styled", tmp_path / "styled", step=step, cuda=True)
    assert set(result.files) >= {"naive.cc", "cpu.cc", "cuda.cu"}
    for name in result.files:
        text = (result.folder / name).read_text()
        assert max(map(len, text.splitlines())) <= 120 and text.endswith("\n") and "{%" not in text
        if name.endswith(".py"):
            ast.parse(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DecayMix", "is no name of an operator"),
        ("1a::DecayMix", "is no name of an operator"),
        ("hsm::DecayMix", "domain 'hsm' is hsm-export's own"),
        ("acme::Decay-Mix", "'Decay-Mix' cannot be an operator's name"),
        ("acme::", "'' cannot be an operator's name"),
        ("acme::A__B", "'A__B' cannot be an operator's name"),
        ("acme::Double", "'double' cannot be a name in C"),
        ("acme::Lambda", "lambda is a word of Python's"),
    ],
)
def test_names_that_cannot_be_are_refused(name: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["operator", "new", name]) == 2
    said = capfd.readouterr().err
    assert message in said and "hint: " in said


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    assert run(["operator", "new", "fresh::There", "-o", str(tmp_path / "there")]) == 4
    assert list((tmp_path / "there").iterdir()) == []
    assert run(["operator", "new", "fresh::Bad", "-o", str(tmp_path / "a-b")]) == 2

    def fail(self: Path, *_rest: Any, **_named: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(creating.Path, "write_text", fail)
        assert run(["operator", "new", "fresh::Full", "-o", str(tmp_path / "full")]) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_what_a_folder_says_wrongly_is_named(tmp_path: Path) -> None:
    folder = new_operator("fresh::Wrong", tmp_path / "wrong").folder
    (folder / "oracle.py").write_text("def other():\n    pass\n")
    with pytest.raises(OperatorError, match=r"oracle\.py has no function wrong"):
        judge_operators(folder, only=["torch"])
    (folder / "oracle.py").write_text("import nothing_of_the_kind\n")
    with pytest.raises(OperatorError, match=r"oracle\.py cannot be imported: ModuleNotFoundError"):
        judge_operators(folder, only=["torch"])
    (folder / "oracle.py").unlink()
    result = judge_operators(folder, only=["torch"], dtypes=["fp32"])
    assert not result.passed and "there is no oracle.py" in result.matrix.cells[0].skipped
    (folder / "cases.py").write_text("SMALL = ()\n")
    with pytest.raises(OperatorError, match=r"cases\.py has no case of fresh::Wrong in SMALL"):
        judge_operators(folder, only=["torch"])
    assert run(["operator", "test", str(folder), "--only", "troch"]) == 2


@pytest.mark.slow
@needs_compilers
@pytest.mark.parametrize("step", [False, True])
def test_kernels_work_at_once_too_and_a_fault_in_one_is_found(step: bool, tmp_path: Path) -> None:
    name = "recurrent" if step else "shifting"
    folder = new_operator(f"fresh::{name.title()}", tmp_path / name, step=step, cuda=True).folder
    result = judge_operators(folder)
    assert result.matrix.failures == []
    verdicts = {cell.implementation: cell.verdict for cell in result.matrix.cells}
    skippable = {"cuda", "engine"}  # without CUDA's headers, nvcc and TensorRT-RTX
    assert all(verdict == "passed" for way, verdict in verdicts.items() if way not in skippable)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder], check=False)
    assert done.returncode == 0
    kernel = folder / "cpu.cc"
    kernel.write_text(
        kernel.read_text().replace("store_first(after, count - c, y + c)", "store_first(before, count - c, y + c)")
    )
    kernel.write_text(kernel.read_text().replace("if (t > 0)", "if (t > 1)"))
    shutil.rmtree(folder / "lib")
    command = [sys.executable, "-m", "hsm_export", "operator", "test", folder, "--only", "fast", "--dtypes", "fp32"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 5
