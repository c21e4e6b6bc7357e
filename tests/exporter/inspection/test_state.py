"""The state table of decoding files and of their engines."""

from __future__ import annotations

import json

import onnx
import pytest
from tests.exporter.decoding.harness import decode_file
from tests.exporter.exporting.models import WIDTH

from hsm_export import cli
from hsm_export.errors import BadInputError
from hsm_export.inspection import OnnxResult, inspect
from hsm_export.inspection.state import state_table


def test_the_bytes_of_every_tensor() -> None:
    result = inspect(decode_file("no-sums", rollback=3))
    assert isinstance(result, OnnxResult)
    assert result.state is not None
    assert result.uncounted == {}
    rows = {row.name: row for row in result.state.tensors}
    slots, grows = ["slots"] * 2, ["position"] * 2
    assert [row.rollback for row in result.state.tensors] == [*slots, *grows, *slots, *grows, "position"]
    rings = {"0.ring": 5, "1.ring": 3, "3.key": 6, "3.value": 6}
    for name, slots in rings.items():
        assert rows[name].constant_bytes == (slots + 3) * WIDTH * 4
        assert (rows[name].spare, rows[name].bytes_per_token) == (3, 0)
    assert sum(row.bytes_per_token for row in rows.values() if row.name.startswith("4.")) == 3 * 2 * 16 * 4  # 3 H f
    assert result.state.constant_bytes == sum((slots + 3) * WIDTH * 4 for slots in rings.values())
    assert result.state.bytes_per_token == 2 * WIDTH * 4 + 3 * 2 * 16 * 4
    assert (result.state.capacity, result.state.rollback, result.state.last_logits) == (None, 3, False)


def test_a_token_of_a_shift_costs_the_same_in_calls_of_any_length() -> None:
    result = inspect(decode_file("hsm-vector"))
    assert isinstance(result, OnnxResult)
    assert result.state is not None
    assert result.state.bytes_per_token == 0
    mixers = [row for row in result.mixers if row.kind == "hsm"]
    for row in mixers:
        assert row.operators == ("ShiftMixCached",)
        assert len({cost.flops_per_token for cost in row.costs}) == 1


def test_the_command_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    path = decode_file("hsm-vector")
    assert cli.run(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "0.ring" in shown
    assert f"bytes of one sequence: {(1 + 2) * WIDTH * 4}, whatever its length" in shown
    assert cli.run(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"]["constant_bytes"] == 3 * WIDTH * 4


def test_files_without_a_state_have_no_table() -> None:
    assert state_table({}, "m.onnx") is None


def test_damaged_descriptions_are_refused(tmp_path: object) -> None:
    with pytest.raises(BadInputError, match=r"damaged|not valid"):
        state_table({"state": "{"}, "m.onnx")
    model = onnx.load(decode_file("hsm-vector"))
    entry = next(entry for entry in model.metadata_props if entry.key == "hsm_export.state")
    entry.value = entry.value.replace('"schema": 2', '"schema": 9')
    path = f"{tmp_path}/m.onnx"
    onnx.save(model, path)
    with pytest.raises(BadInputError, match="schema version 9"):
        inspect(path)
