"""What no case enters is not judged and said to be so; Boolean inputs that choose a branch take both values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import hsm_export
from hsm_export.runtimes.runtime import RunContext
from hsm_export.validation.taken_path import unentered

SWITCH = """
<ir_version: 8, opset_import: ["" : 18]>
agraph (float[n] x, bool[1] fast) => (float[n] y) {
    [choose] y = If (fast) <
        then_branch = t () => (float[n] a) { a = Tanh(x) },
        else_branch = e () => (float[n] b) { s = Sigmoid(x) b = Mul(s, x) }
    >
}
"""
# The inner branch is taken where the loop's count says so, and the last branch never.
NESTED = """
<ir_version: 8, opset_import: ["" : 18]>
agraph (float[n] x, int64 steps) => (float[n] y) {
    yes = Constant <value = bool {1}> ()
    [repeat] z = Loop (steps, yes, x) <
        body = step (int64 i, bool go, float[n] state) => (bool again, float[n] next) {
            again = Identity(go)
            three = Constant <value = int64 {3}> ()
            late = Less(three, i)
            [inner] next = If (late) <
                then_branch = t () => (float[n] a) { a = Tanh(state) },
                else_branch = e () => (float[n] b) { b = Sin(state) }
            >
        }
    >
    no = Constant <value = bool {0}> ()
    [last] y = If (no) <
        then_branch = t2 () => (float[n] c) { u = Exp(z) c = Neg(u) },
        else_branch = e2 () => (float[n] d) { d = Identity(z) }
    >
}
"""


def saved(text: str, folder: Path) -> Path:
    model = parser.parse_model(text)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def note(text: str, folder: Path, *feeds: dict[str, Any]) -> str:
    notes = unentered(RunContext(parser.parse_model(text), folder, "fp32"), feeds)
    return " ".join(notes)


def feed(steps: int) -> dict[str, Any]:
    return {"x": np.ones(4, np.float32), "steps": np.array(steps)}


def test_what_is_not_entered_is_named_from_outside(tmp_path: Path) -> None:
    assert note(NESTED, tmp_path, feed(0)).startswith(
        "not judged, as no case enters it: repeat/body (6 nodes), last/then_branch (2 nodes); "
    )
    assert "repeat/body/inner/then_branch (1 node), last/then_branch" in note(NESTED, tmp_path, feed(2))
    assert "enters it: last/then_branch (2 nodes);" in note(NESTED, tmp_path, feed(0), feed(2), feed(9))


def test_nothing_is_said_of_what_cannot_be_followed(tmp_path: Path) -> None:
    found = note(NESTED, tmp_path, feed(9000), feed(0))  # the loop stays together in the end
    assert "last/then_branch" in found
    assert "inner" not in found


@pytest.mark.parametrize("view", ["validate", "diff"])
def test_both_values_of_a_switch_are_tried(view: str, tmp_path: Path) -> None:
    path = saved(SWITCH, tmp_path)
    result: Any = hsm_export.validate(path, runtimes=["ort"]) if view == "validate" else hsm_export.diff(path)
    assert result.passed
    assert not [line for line in result.notes if "not judged" in line]
    one = {"x": np.ones(4, np.float32), "fast": np.array([True])}
    options: dict[str, Any] = {"inputs": one}
    result = hsm_export.validate(path, **options) if view == "validate" else hsm_export.diff(path, **options)
    assert [line for line in result.notes if "choose/else_branch (2 nodes)" in line]


def test_loops_run_more_than_once_where_a_number_counts_them(tmp_path: Path) -> None:
    text = NESTED.replace("int64 {3}", "int64 {0}")
    result = hsm_export.validate(saved(text, tmp_path), runtimes=["ort"])
    assert "single ones from 1 to 7" in " ".join(result.notes)
    assert not [line for line in result.notes if "repeat" in line]
