"""Every hostile bundle is refused with a sentence, and what only looks strange is taken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.exporter.bundling.hostile import ACCEPTED, CASES, HARMLESS, REFUSED, write, write_all

from hsm_export.bundling import open_bundle
from hsm_export.errors import BadInputError
from hsm_export.formats.bundle_manifest import MANIFEST


@pytest.mark.parametrize("name", CASES)
def test_refused(good: Path, tmp_path: Path, name: str) -> None:
    hostile = write(good, tmp_path / "bundle.hsm", CASES[name])
    with pytest.raises(BadInputError) as caught:
        open_bundle(hostile)
    message = caught.value.message
    assert message and message.isprintable()
    assert len(message) < 600, "the sentence repeats what a stranger wrote"


@pytest.mark.parametrize("name", HARMLESS)
def test_accepted(good: Path, tmp_path: Path, name: str) -> None:
    harmless = write(good, tmp_path / "bundle.hsm", HARMLESS[name])
    assert open_bundle(harmless).manifest.format == "hsm-bundle"


@pytest.mark.parametrize("name", ["changed-byte", "wrong-sum"])
def test_only_digests_tell(good: Path, tmp_path: Path, name: str) -> None:
    """Without digests the contents go unseen; all else is still checked."""
    hostile = write(good, tmp_path / "bundle.hsm", CASES[name])
    assert open_bundle(hostile, digests=False).path == hostile


def test_written_for_the_other_reader(good: Path, tmp_path: Path) -> None:
    """The folder that the C++ test reads holds each case once, and the list has some of every sort."""
    write_all(good, tmp_path / "all")
    assert len(list((tmp_path / "all" / REFUSED).glob("*.hsm"))) == len(CASES) >= 80
    assert len(list((tmp_path / "all" / ACCEPTED).glob("*.hsm"))) == len(HARMLESS)


@pytest.mark.parametrize("what", ["file", "nothing"])
def test_no_folder(tmp_path: Path, what: str) -> None:
    path = tmp_path / "model.hsm"
    if what == "file":
        path.write_text("no folder")
    with pytest.raises(BadInputError, match="is not a folder"):
        open_bundle(path)


def test_unreadable(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without permission to read is named; for root every file is readable, so the system is played."""
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).endswith("model.onnx"))
    with pytest.raises(BadInputError, match=r"model\.onnx cannot be read"):
        open_bundle(good)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry: entry["inputs"][0].update(name="other"), "has no input 'other'"),
        (lambda entry: entry["inputs"][0].update(dtype="int32"), "the manifest says int32"),
        (lambda entry: entry["outputs"][0]["shape"].append(3), "the output"),
        (lambda entry: entry["outputs"].append({**entry["outputs"][0], "name": "more"}), "has no output 'more'"),
    ],
)
def test_a_manifest_that_contradicts_its_graph(
    good: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    copy = tmp_path / "bundle.hsm"
    shutil.copytree(good, copy)
    manifest = json.loads((copy / MANIFEST).read_text())
    change(manifest["model"])
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BadInputError, match=words):
        open_bundle(copy)
