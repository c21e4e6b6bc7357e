"""The command line as a whole: help, versions, exit codes, streams."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from hsm_export import cli
from hsm_export.cli import operator
from hsm_export.errors import BadInputError, BuildRefusedError, MissingDependencyError, NumbersDifferError, UsageError
from hsm_models.errors import CheckpointError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hsm_export", *arguments], capture_output=True, text=True)


def test_version_help_and_unknown_commands() -> None:
    assert run("--version").stdout.startswith("hsm-export ")
    done = run("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in cli.COMMANDS)
    done = run("exprot")
    assert done.returncode == 2
    assert "export" in done.stderr


@pytest.mark.parametrize("command", [*cli.COMMANDS, *(f"operator {name}" for name in operator.COMMANDS)])
def test_every_command_teaches_by_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert f"hsm-export {command}" in text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("wrong", "do right"), 2),
        (click.UsageError("wrong"), 2),
        (MissingDependencyError("wrong", "do right"), 3),
        (ModuleNotFoundError("No module", name="wrong"), 3),
        (BadInputError("wrong", "do right"), 4),
        (CheckpointError("wrong"), 4),
        (NumbersDifferError("wrong"), 5),
        (BuildRefusedError("wrong"), 6),
        (RuntimeError("wrong"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_one_clear_line_and_the_documented_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    assert cli.run(["doctor"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert "wrong" in captured.err or code == 130


def test_json_goes_to_stdout_and_nothing_else_does() -> None:
    done = run("doctor", "--json")
    assert isinstance(json.loads(done.stdout), dict)
