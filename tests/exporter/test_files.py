"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hsm_export.errors import BadInputError, HsmExportError
from hsm_export.files import atomic_directory, atomic_path, require_file, sha256


def test_atomic_path_renames_on_success_with_the_usual_permissions(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    with atomic_path(target) as scratch:
        scratch.write_bytes(b"whole")
        assert not target.exists()
        assert scratch.suffix == ".onnx"
    plain = tmp_path / "plain"
    plain.touch()
    assert target.read_bytes() == b"whole"
    assert target.stat().st_mode == plain.stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "plain"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_atomic_path_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_path(target) as scratch:
        scratch.write_bytes(b"half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert target.read_bytes() == b"old"


def test_disk_full_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="disk is full"), atomic_path(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_other_operating_system_errors_keep_their_text(tmp_path: Path) -> None:
    with pytest.raises(HsmExportError, match="Input/output"), atomic_path(tmp_path / "x"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_targets_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="is a directory"), atomic_path(tmp_path):
        pass
    with pytest.raises(BadInputError, match="does not exist"), atomic_path(tmp_path / "no" / "x"):
        pass


def test_atomic_directory_is_gone_afterwards(tmp_path: Path) -> None:
    with atomic_directory(tmp_path) as scratch:
        (scratch / "part").write_text("x")
    assert not list(tmp_path.iterdir())


def test_require_file_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"the model .* does not exist"):
        require_file(tmp_path / "none.onnx", "the model")
    with pytest.raises(BadInputError, match="is a directory"):
        require_file(tmp_path, "the model")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    assert sha256(file) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
