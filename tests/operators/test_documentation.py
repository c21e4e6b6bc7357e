"""docs/adding-a-mixer.md: its code runs, word for word."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import onnx
import pytest

from hsm_export.cli import run

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "adding-a-mixer.md"


def test_the_code_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    code = [textwrap.dedent(block) for block in blocks if not block.strip().startswith("[project")]
    commands = [block for block in code if block.strip().startswith("hsm-export ")]
    assert (len(code) - len(commands), len(commands)) == (5, 2)
    names: dict[str, Any] = {"__name__": __name__}
    for block in code:
        if block in commands:
            assert [run(shlex.split(line)[1:]) for line in block.strip().splitlines()] == [0]
        else:
            exec(compile(block, str(DOCUMENT), "exec"), names)
    (node,) = [node for node in onnx.load("tagger.onnx").graph.node if node.domain == "acme"]
    assert node.op_type == "DecayMix"
    states = [value.name for value in onnx.load("decode.onnx").graph.input]
    assert "past.0.state" in states
    assert {node.domain for node in onnx.load("uses.onnx").graph.node} == {"flash"}
