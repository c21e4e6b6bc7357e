"""Inputs that are sequences or optional ones are fed as arrays, and judged as all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import parser

from hsm_export import validate
from hsm_export.diffing import DiffOptions, diff

TEXT = """<ir_version: 8, opset_import: ["" : 18]>
    m (seq(float[N, 2]) parts, optional(float[N, 2]) more) => (float[M, 2] y, seq(float[N, 2]) back) {
        joined = ConcatFromSequence <axis = 0> (parts)
        held = OptionalGetElement(more)
        whole = Concat <axis = 0> (joined, held)
        y = Tanh(whole)
        back = Identity(parts)
    }"""


def test_sequences_and_optional_inputs_are_judged(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(TEXT), str(tmp_path / "m.onnx"))
    chosen = validate(tmp_path / "m.onnx", runtimes=["ort"])
    assert chosen.passed, chosen.summary
    outputs = {item.output for report in chosen.runtimes for item in report.worst}
    assert {"y", "back.length", "back[0]", "back[2]"} <= outputs
    x = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    given = {"parts[0]": x, "parts[1]": 2 * x, "more.value": x}
    result = diff(tmp_path / "m.onnx", ["ort"], inputs=given, options=DiffOptions(layers=True, generate=0))
    assert result.passed, result.summary
    assert {item.output for item in result.runtimes[0].outputs} == {"y", "back.length", "back[0]", "back[1]"}
