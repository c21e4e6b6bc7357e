"""The checks that stand between a written file and its name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from hsm_export.errors import BadInputError, HsmExportError
from hsm_export.exporting import checking
from hsm_operators import functions_for


def model(body: str = "", with_function: bool = True) -> onnx.ModelProto:
    """A model with one `TokenShift` node, or with the nodes of `body`."""
    body = body or 'y = hsm.TokenShift<shifts = [1], plugin_namespace = "hsm", plugin_version = "1">(x)'
    text = '<ir_version: 10, opset_import: ["": 21, "hsm": 1]> g'
    parsed = onnx.parser.parse_model(f"{text} (float[batch, length, 4] x) => (float[batch, length, 4] y) {{ {body} }}")
    if with_function:
        parsed.functions.extend(functions_for(parsed))
    return parsed


def save(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(proto, path)
    return path


FEED = {"x": np.arange(8, dtype=np.float32).reshape(1, 2, 4)}


def test_a_good_file_runs_in_another_process(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (first, second) = checking.check_in_subprocess(save(model(), tmp_path), [FEED, {"x": FEED["x"][:, :1]}], scratch)
    assert first["y"].tolist() == [[[0, 0, 0, 0], [0, 1, 2, 3]]]
    assert second["y"].tolist() == [[[0, 0, 0, 0]]]


def test_refusals_cross_the_process_border(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(BadInputError, match=r"does not pass its checks: .*no function body") as caught:
        checking.check_in_subprocess(save(model(with_function=False), tmp_path), [FEED], scratch)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("y = hsm.TokenShift<shifts = [1]>(x)", "lacks the attributes plugin_namespace, plugin_version"),
        (
            'y = hsm.TokenShift<shifts = [1], plugin_namespace = "other", plugin_version = "1">(x)',
            "lacks the attributes plugin_namespace, plugin_version",
        ),
        ("y = NoSuchOperator(x)", "checker refuses"),
        ("y = MatMul(x, x)", "refuses"),
        ("y = Relu(z)", "checker refuses"),
    ],
)
def test_what_the_checks_refuse(body: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=words):
        checking.run_file(checking.check_file(save(model(body), tmp_path)), tmp_path, [FEED])


def test_a_dead_checker_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(model(), tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(HsmExportError, match="checks the exported file ended with exit code 1"):
        checking.check_in_subprocess(path, [FEED], tmp_path)
    killer = tmp_path / "killer.sh"
    killer.write_text("#!/bin/sh\nkill -SEGV $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    with pytest.raises(HsmExportError, match="ended by SIGSEGV"):
        checking.check_in_subprocess(path, [FEED], tmp_path)
