"""The command `diff`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.exporter.diffing.plain_models import chain, rows
from tests.exporter.diffing.test_diff import FAULT
from tests.studies.planting import planted

from hsm_export.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and inputs for it; it is the current one."""
    onnx.save(chain(), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "x.npz", **rows())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass(frozen=True)
class Result:
    """What the command did."""

    exit_code: int
    stdout: str
    output: str


Run = Callable[..., Result]


@pytest.fixture
def ran(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command on the model, in this process so that faults can be planted."""

    def run(*arguments: str) -> Result:
        words = ["hsm-export", "diff", "m.onnx", "--inputs", "x.npz", "--runtimes", "ort", *arguments]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        streams = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0, streams.out, streams.out + streams.err)

    return run


def test_runtimes_that_agree(ran: Run) -> None:
    result = ran("--layers")
    assert result.exit_code == 0, result.output
    assert "ort" in result.output


def test_a_fault_is_exit_code_5_and_names_the_node(ran: Run) -> None:
    with planted({"ort": FAULT}):
        result = ran()
    assert result.exit_code == 5
    assert "squash" in result.output
    assert "b[3, 2]" in result.output


def test_json_goes_to_stdout_also_when_it_fails(ran: Run) -> None:
    with planted({"ort": FAULT}):
        result = ran("--json", "--layers")
    assert result.exit_code == 5
    report = json.loads(result.stdout)
    assert report["passed"] is False
    assert report["runtimes"][0]["culprit"]["layer"]["node"] == "squash"


def test_every_report_is_written(ran: Run, folder: Path) -> None:
    with planted({"ort": FAULT}):
        result = ran(
            *("--html", "r.html", "--markdown", "r.md", "--junit", "r.xml", "--save", "r.json"),
            *("--repro", "repro", "--polygraphy", "poly"),
        )
    assert result.exit_code == 5
    for name in ("r.html", "r.md", "r.xml", "r.json"):
        assert "squash" in (folder / name).read_text()
    assert [item.name for item in (folder / "repro").iterdir()] == ["ort.squash"]
    assert list((folder / "poly").iterdir())


def test_a_saved_report_is_a_baseline(ran: Run) -> None:
    assert ran("--layers", "--save", "old.json").exit_code == 0
    assert ran("--layers", "--baseline", "old.json", "--fail-on", "regression").exit_code == 0
    with planted({"ort": FAULT}):
        assert ran("--layers", "--baseline", "old.json", "--fail-on", "regression").exit_code == 5


@pytest.mark.parametrize("cap", [("--max-seconds", "0.000001"), ("--max-memory", "1")])
def test_a_cap_is_exit_code_8_and_says_so(ran: Run, cap: tuple[str, str]) -> None:
    result = ran("--layers", *cap)
    assert result.exit_code == 8
    assert re.search(r"(time|memory) limit of", result.output)


def test_only_the_rules_that_were_named_fail(ran: Run) -> None:
    with planted({"ort": FAULT}):
        assert ran("--fail-on", "error>10").exit_code == 0
        assert ran("--fail-on", "error>0.1").exit_code == 5


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--fail-on", "nonsense>1"), 2),
        (("--runtimes", "abacus"), 2),
        (("--max-seconds", "0"), 2),
        (("--generate", "-1"), 2),
        (("--shape", "2x3"), 2),
        (("--reference", "missing.npz"), 4),
        (("--baseline", "missing.json"), 4),
        (("--inputs", "missing.npz"), 4),
    ],
)
def test_what_cannot_be_done_is_one_line_with_its_exit_code(ran: Run, arguments: tuple[str, ...], code: int) -> None:
    result = ran(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output


def test_a_reference_from_a_file(ran: Run) -> None:
    weight = onnx.numpy_helper.to_array(chain().graph.initializer[0]).astype(float)
    right = 3 * np.tanh(rows()["x"].astype(float) @ weight.T)
    np.savez("right.npz", y=right)
    assert ran("--reference", "right.npz").exit_code == 0
    np.savez("right.npz", y=right + 0.1)
    assert ran("--reference", "right.npz").exit_code == 5
