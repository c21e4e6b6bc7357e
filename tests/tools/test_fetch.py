"""tools/fetch.py: only what downloads.lock pins, bit for bit, reaches the cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch", ROOT / "tools" / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fetch"] = module
    spec.loader.exec_module(module)
    return module


fetch = load_tool()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder that serves one wheel, `sample` 1.0, in place of a package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "sample-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("sample/text.txt", "hello\n")
        program = zipfile.ZipInfo("sample/program")
        program.external_attr = 0o100755 << 16
        wheel.writestr(program, "#!/bin/sh\n")
        wheel.writestr("sample-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
        wheel.writestr("sample-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("sample-1.0.dist-info/RECORD", "")
    return folder


def write_lock(folder: Path, sha256: str, **changes: str) -> Path:
    fields = {
        "kind": "wheel",
        "package": "sample",
        "version": "1.0",
        "file": "sample-1.0-py3-none-any.whl",
        "sha256": sha256,
        "licence": "none",
        "purpose": "tests",
    } | changes
    lock = folder / "downloads.lock"
    lock.write_text("[sample]\n" + "".join(f'{key} = "{value}"\n' for key, value in fields.items()))
    return lock


def digest(index: Path) -> str:
    return hashlib.sha256((index / "sample-1.0-py3-none-any.whl").read_bytes()).hexdigest()


def run(tmp_path: Path, lock: Path, *names: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index")}
    command = [
        sys.executable,
        str(ROOT / "tools" / "fetch.py"),
        "--lock",
        str(lock),
        "--cache",
        str(tmp_path / "cache"),
    ]
    return subprocess.run([*command, *names], capture_output=True, text=True, env=environment)


def test_the_pinned_file_is_unpacked_and_cached(index: Path, tmp_path: Path) -> None:
    lock = write_lock(tmp_path, digest(index))
    done = run(tmp_path, lock, "sample")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert (folder / "sample" / "text.txt").read_text() == "hello\n"
    (index / "sample-1.0-py3-none-any.whl").unlink()
    assert run(tmp_path, lock, "sample").stdout == done.stdout
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_another_hash_is_refused_and_leaves_nothing(index: Path, tmp_path: Path) -> None:
    done = run(tmp_path, write_lock(tmp_path, "0" * 64), "sample")
    assert done.returncode == 3
    assert "has SHA-256" in done.stderr
    assert "downloads.lock says 0000" in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


def test_of_two_that_fetch_the_same_the_slower_takes_what_is_there(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = fetch.read_lock(write_lock(tmp_path, digest(index)))["sample"]
    unpack, others = fetch._unpack, tmp_path / "cache" / f"sample-{digest(index)[:12]}"

    def slowly(download: object, archive: Path, target: Path) -> None:
        unpack(download, archive, target)
        unpack(download, archive, others)

    monkeypatch.setattr(fetch, "_unpack", slowly)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert fetch.fetch(download, tmp_path / "cache") == others
    assert (others / "sample" / "text.txt").read_text() == "hello\n"
    assert list((tmp_path / "cache").iterdir()) == [others]


def test_an_unreachable_registry_is_one_clear_error(index: Path, tmp_path: Path) -> None:
    done = run(tmp_path, write_lock(tmp_path, digest(index), version="2.0"), "sample")
    assert done.returncode == 3
    assert done.stderr.startswith("error: cannot fetch sample 2.0 (wheel)")
    assert "hint: check the network" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_file_name_is_refused(index: Path, tmp_path: Path) -> None:
    done = run(tmp_path, write_lock(tmp_path, digest(index), file="other.whl"), "sample")
    assert done.returncode == 3
    assert "served sample-1.0-py3-none-any.whl" in done.stderr


def test_unknown_names_and_bad_locks_are_refused(index: Path, tmp_path: Path) -> None:
    lock = write_lock(tmp_path, digest(index))
    assert "has no entry 'other'" in run(tmp_path, lock, "other").stderr
    assert "kind 'magic'" in run(tmp_path, write_lock(tmp_path, "", kind="magic"), "sample").stderr
    assert "cannot read" in run(tmp_path, write_lock(tmp_path, "", surprise="1"), "sample").stderr
    assert "cannot read" in run(tmp_path, tmp_path / "missing.lock", "sample").stderr


def add_tree(lock: Path, parts: str) -> None:
    with lock.open("a") as file:
        file.write(
            f'[both]\nkind = "tree"\nparts = [{parts}]\npurpose = "tests"\nlinks = {{ "sample/lib64" = "lib" }}\n'
        )


def test_a_tree_is_its_parts_in_one_folder(index: Path, tmp_path: Path) -> None:
    lock = write_lock(tmp_path, digest(index))
    add_tree(lock, '"sample"')
    done = run(tmp_path, lock, "both")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert (folder / "sample" / "text.txt").read_text() == "hello\n"
    assert os.access(folder / "sample" / "program", os.X_OK)
    assert not os.access(folder / "sample" / "text.txt", os.X_OK)
    assert (folder / "sample" / "lib64").readlink() == Path("lib")
    assert run(tmp_path, lock, "both").stdout == done.stdout


def test_a_tree_of_unknown_parts_is_refused(index: Path, tmp_path: Path) -> None:
    lock = write_lock(tmp_path, digest(index))
    add_tree(lock, '"sample", "other"')
    assert "unknown parts other" in run(tmp_path, lock, "sample").stderr


def test_the_projects_own_lock_is_complete() -> None:
    downloads = fetch.read_lock(ROOT / "downloads.lock")
    assert "kjv-text" in downloads
    for entry in downloads.values():
        assert entry.purpose
        assert "://" not in " ".join(map(str, vars(entry).values()))
        if isinstance(entry, fetch.Tree):
            assert entry.parts
        else:
            assert len(entry.sha256) == 64
            assert entry.licence
