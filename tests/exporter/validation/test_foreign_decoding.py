"""Files with a state that others wrote: right ones pass, and of wrong ones the state and the node are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.exporter.validation.foreign_models import attention, convolution, counting, grouped, merged, recurrent

from hsm_export import validate
from hsm_export.errors import UsageError
from hsm_export.validation.results import ValidationResult

NAMES = [
    ("past_key_values.0.", "present.0."),
    ("past_0_", "present_0_"),
    ("cache_in/", "cache_out/"),
    ("old_layer0_", "layer0_new_"),
]


def run(path: Path, **options: Any) -> ValidationResult:
    return validate(path, runtimes=["ort"], **options)


@pytest.mark.parametrize("names", NAMES)
def test_states_are_found_whatever_they_are_called(names: tuple[str, str], tmp_path: Path) -> None:
    result = run(attention(tmp_path / "m.onnx", names=names))
    assert result.passed, result.summary
    assert any(f"2 states: {names[0]}key → {names[1]}key and 1 more" in note for note in result.notes), result.notes
    assert any("it gives the same numbers, and so after a fork" in note for note in result.notes)
    assert "read token by token" in result.cases


def test_rows_are_copied_along_their_own_axis(tmp_path: Path) -> None:
    """The state of an LSTM has its rows second."""
    result = run(recurrent(tmp_path / "m.onnx"))
    assert result.passed, result.summary
    assert any("it gives the same numbers, and so after a fork" in note for note in result.notes)


def test_what_a_runtime_does_not_take_is_no_fault(tmp_path: Path) -> None:
    """ONNX Runtime's GroupQueryAttention takes several tokens after others of one row only."""
    result = run(grouped(tmp_path / "m.onnx"))
    assert result.passed, result.summary
    assert any("ort does not take what is read in two pieces" in note for note in result.notes), result.notes
    assert "read token by token" in result.cases


def test_a_file_that_is_told_whether_it_continues(tmp_path: Path) -> None:
    result = run(merged(tmp_path / "m.onnx"))
    assert result.passed, result.summary
    assert any("use_cache_branch: whether it continues" in note for note in result.notes), result.notes
    wrong = run(merged(tmp_path / "w.onnx", "mismatch"))
    assert "if_window (If)" in wrong.summary and "past_conv → present_conv" in wrong.summary


def test_a_window_and_a_counter_are_states_too(tmp_path: Path) -> None:
    for path in (convolution(tmp_path / "c.onnx"), counting(tmp_path / "n.onnx")):
        result = run(path)
        assert result.passed, result.summary
        assert any("it gives the same numbers, and so after a fork" in note for note in result.notes), result.notes


FAULTS = {
    "prefill against decode": (attention, "mismatch", "if_scaled (If)", ""),
    "cache exported as a constant": (attention, "constant", "past_key_values.0.key → present.0.key", "is a constant"),
    "stale convolution state": (convolution, "stale", "concat_window (Concat)", "conv_state_in_0 → conv_state_out_0"),
    "wrong position": (counting, "position", "state_count → next_count", "written by add_next_count (Add)"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_state_and_the_node_at_fault_are_named(kind: str, tmp_path: Path) -> None:
    make, fault, first, second = FAULTS[kind]
    result = run(make(tmp_path / "m.onnx", fault))
    assert result.verdict == "failed"
    assert result.summary.startswith("the file itself: "), result.summary
    assert first in result.summary and second in result.summary, result.summary


def test_the_user_names_states_that_do_not_show(tmp_path: Path) -> None:
    names = ("h0_", "hn_")
    path = attention(tmp_path / "m.onnx", "mismatch", names=names)
    assert not any("states" in note for note in run(path).notes)
    states = [(f"h0_{part}", f"hn_{part}") for part in ("key", "value")]
    assert "if_scaled (If)" in run(path, states=states).summary
    with pytest.raises(UsageError, match="no output 'nowhere'"):
        run(path, states=[("h0_key", "nowhere")])
