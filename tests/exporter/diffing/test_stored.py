"""Numbers from a file as the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.exporter.diffing.plain_models import chain, context, rows

from hsm_export.diffing import DiffOptions, diff
from hsm_export.diffing.layers.tapping import run_once
from hsm_export.diffing.stored import stored_reference
from hsm_export.errors import BadInputError, UsageError
from hsm_export.runtimes import get

OPTIONS = DiffOptions(generate=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file, and beside it its inputs and right outputs."""
    onnx.save(chain(), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "inputs.npz", **rows())
    right = run_once(get("onnx64"), context(chain(), tmp_path), rows())
    np.savez(tmp_path / "right.npz", **right)
    np.savez(tmp_path / "wrong.npz", y=np.asarray(right["y"]) + np.float32([0, 0, 0.5, 0]))
    np.savez(tmp_path / "other.npz", z=right["y"])
    np.savez(tmp_path / "shape.npz", y=np.zeros((2, 2)))
    return tmp_path / "m.onnx"


def test_its_numbers_count_as_right(path: Path) -> None:
    good = diff(
        path, ["ort"], reference=path.with_name("right.npz"), inputs=path.with_name("inputs.npz"), options=OPTIONS
    )
    assert good.passed, good.summary
    assert good.reference == "stored"
    bad = diff(
        path, ["ort"], reference=path.with_name("wrong.npz"), inputs=path.with_name("inputs.npz"), options=OPTIONS
    )
    assert not bad.passed
    worst = bad.runtimes[0].worst
    assert worst is not None
    assert worst.errors.max_abs == pytest.approx(0.5, rel=1e-3)
    assert worst.errors.worst_index[1] == 2


def test_it_belongs_to_inputs(path: Path) -> None:
    with pytest.raises(UsageError, match="belongs to one set of inputs"):
        diff(path, ["ort"], reference=path.with_name("right.npz"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.npz", "missing"), ("m.npz", "not a whole .npz file"), ("other.npz", "lacks the output y; it holds z")],
)
def test_files_that_are_of_no_use(name: str, message: str, path: Path) -> None:
    if name == "m.npz":
        path.with_name(name).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(BadInputError, match=message):
        diff(path, ["ort"], reference=path.with_name(name), inputs=path.with_name("inputs.npz"), options=OPTIONS)


def test_a_reference_of_another_shape_is_a_difference_or_an_error_and_no_crash(path: Path) -> None:
    try:
        result = diff(
            path, ["ort"], reference=path.with_name("shape.npz"), inputs=path.with_name("inputs.npz"), options=OPTIONS
        )
    except BadInputError:
        return
    assert not result.passed


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", y=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadInputError, match=r"not a whole \.npz file"):
        stored_reference(tmp_path / "evil.npz")
