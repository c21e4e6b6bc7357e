#!/usr/bin/env python3
"""Fetch what downloads.lock names: verify the SHA-256, unpack into .cache/, print the folder.

Wheels come through pip and Debian packages through apt-get, so mirrors and proxies are configured where they always
are. An entry may name a Debian suite other than the system's: it is asked for with an apt configuration of our own in
the cache, and the system's is left alone. Nothing that was downloaded is executed here: archives are only unpacked.

Examples:
    python tools/fetch.py kjv-text
    python tools/fetch.py --list
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("wheel", "debian", "debian-source")


class FetchError(Exception):
    """A download that cannot be had or must not be used; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Download:
    """One pinned file of downloads.lock.

    Attributes:
        name: the entry's name, what the command line takes.
        kind: "wheel" (PyPI), "debian" (a binary package) or "debian-source" (a source package's original archive).
        package: name in the package registry.
        version: exact version.
        file: name of the file that the registry serves.
        sha256: of that file, hexadecimal.
        licence: under which terms it may be used.
        purpose: what the project needs it for.
        suite: the Debian suite to take it from; empty means the system's own.
    """

    name: str
    kind: str
    package: str
    version: str
    file: str
    sha256: str
    licence: str
    purpose: str
    suite: str = ""


@dataclass(frozen=True)
class Tree:
    """Several entries of downloads.lock, unpacked into one folder, as programs expect that find each other by path.

    Attributes:
        name: the entry's name, what the command line takes.
        kind: "tree".
        parts: names of the entries; no two of them hold the same file.
        purpose: what the project needs it for.
        links: symbolic links to make: a path in the folder, and what it points to.
    """

    name: str
    kind: str
    parts: tuple[str, ...]
    purpose: str
    links: dict[str, str] = field(default_factory=dict)


Lock = dict[str, Download | Tree]


def read_lock(path: Path) -> Lock:
    """Read the lock file.

    Raises:
        FetchError: the file is missing, no TOML, or an entry lacks a field or has an unknown one or unknown parts.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
        lock = {name: _entry(name, fields) for name, fields in entries.items()}
    except (OSError, tomllib.TOMLDecodeError, TypeError) as error:
        raise FetchError(f"cannot read {path}: {error}", "restore downloads.lock from the repository") from error
    for entry in lock.values():
        if isinstance(entry, Tree):
            unknown = [part for part in entry.parts if not isinstance(lock.get(part), Download)]
            if unknown:
                raise FetchError(f"{path}: {entry.name} has the unknown parts {', '.join(unknown)}", "name downloads")
        elif entry.kind not in KINDS:
            raise FetchError(f"{path}: {entry.name} has kind {entry.kind!r}", f"use tree, {', '.join(KINDS)}")
    return lock


def _entry(name: str, fields: dict[str, Any]) -> Download | Tree:
    if fields.get("kind") == "tree":
        return Tree(name=name, **fields | {"parts": tuple(fields.get("parts", ()))})
    return Download(name=name, **fields)


def fetch_entry(entry: Download | Tree, lock: Lock, cache: Path) -> Path:
    """Return the folder with an entry's contents, downloading only what the cache lacks.

    Raises:
        FetchError: a registry cannot be reached, serves another file, or a tool is missing.
    """
    return fetch(entry, cache) if isinstance(entry, Download) else _plant(entry, lock, cache)


def _plant(tree: Tree, lock: Lock, cache: Path) -> Path:
    """Return the folder of a tree. Its files are hard links to those of its parts, so they take no further space."""
    downloads = [part for name in tree.parts if isinstance(part := lock[name], Download)]
    identity = json.dumps([[download.sha256 for download in downloads], tree.links])
    folder = cache / f"{tree.name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    folders = [fetch(download, cache) for download in downloads]
    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=cache) as name:
        contents = Path(name) / "contents"
        for source in folders:
            shutil.copytree(source, contents, copy_function=os.link, dirs_exist_ok=True)
        for link, target in tree.links.items():
            (contents / link).symlink_to(target)
        _keep(contents, folder)
    return folder


def fetch(download: Download, cache: Path) -> Path:
    """Return the folder with the unpacked contents of one file, downloading it only when the cache lacks it.

    Raises:
        FetchError: the registry cannot be reached, serves another file, or a tool is missing.
    """
    folder = cache / f"{download.name}-{download.sha256[:12]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=cache) as name:
        scratch = Path(name)
        archive = _download(download, scratch, cache)
        _verify(download, archive)
        contents = scratch / "contents"
        _unpack(download, archive, contents)
        _keep(contents, folder)
    return folder


def _keep(contents: Path, folder: Path) -> None:
    """Put finished contents in place, unless another process that fetched the same was quicker."""
    try:
        contents.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _download(download: Download, folder: Path, cache: Path) -> Path:
    """Let the registry's own client put the file into `folder`."""
    pinned = f"{download.package}={download.version}"
    if download.kind == "wheel":
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", "."]
        _run(download, [sys.executable, "-m", "pip", "download", *options, pinned.replace("=", "==")], folder)
    elif download.kind == "debian":
        _run(download, ["apt-get", *_suite_options(download, cache), "--quiet", "download", pinned], folder)
    else:
        _run(
            download,
            ["apt-get", *_suite_options(download, cache), "--quiet", "source", "--download-only", pinned],
            folder,
        )
    archive = folder / download.file
    if not archive.is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise FetchError(
            f"the registry served {found} for {download.package} {download.version}, not {download.file}",
            "this machine's platform or distribution is not the one that downloads.lock pins",
        )
    return archive


def _suite_options(download: Download, cache: Path) -> list[str]:
    """Return apt-get's options for the entry's suite, making its package lists in the cache when they are missing."""
    if not download.suite:
        return []
    root = cache / f"apt-{download.suite}"
    options = [
        *("-o", f"Dir::Etc::sourcelist={root}/sources.list", "-o", "Dir::Etc::sourceparts=/nonexistent"),
        *("-o", f"Dir::State::lists={root}/lists", "-o", f"Dir::Cache={root}/cache"),
    ]
    if not (root / "ready").exists():
        for name in ("lists/partial", "cache/archives/partial"):
            (root / name).mkdir(parents=True, exist_ok=True)
        repository = _debian_repository(download)
        lines = [f"{kind} {repository} {download.suite} main\n" for kind in ("deb", "deb-src")]
        (root / "sources.list").write_text("".join(lines), encoding="utf-8")
        _run(download, ["apt-get", *options, "--quiet", "update"], root)
        (root / "ready").touch()
    return options


def _debian_repository(download: Download) -> str:
    """Return the address that this system takes its main Debian packages from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    for line in _run(download, command, Path.cwd()).splitlines():
        repository, release = line.rsplit(" ", 1)
        if "-" not in release and "debian" in repository:
            return repository
    raise FetchError(
        f"apt-get has no Debian repository to take {download.package} from",
        "run `apt-get update` once, on a Debian system",
    )


def _verify(download: Download, archive: Path) -> None:
    with archive.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    if found != download.sha256:
        raise FetchError(
            f"{download.file} has SHA-256 {found}, but downloads.lock says {download.sha256}; it was deleted",
            "the file changed on its way or at its source: do not use it before someone has looked",
        )


def _unpack(download: Download, archive: Path, target: Path) -> None:
    target.mkdir()
    if download.kind == "wheel":
        with zipfile.ZipFile(archive) as file:
            file.extractall(target)
            for member in file.infolist():
                if (member.external_attr >> 16) & 0o111 and not member.is_dir():
                    (target / member.filename).chmod(0o755)  # extractall forgets that a file is a program
    elif download.kind == "debian-source":
        # Not Python's tarfile: its safe extraction came with 3.11.4, and Debian 12 has 3.11.2.
        _run(download, ["tar", "--extract", "--file", str(archive), "--directory", str(target)], target.parent)
    else:
        _run(download, ["dpkg-deb", "-x", str(archive), str(target)], target.parent)


def _run(download: Download, command: list[str], folder: Path) -> str:
    """Run a tool in `folder` and return what it printed.

    PYTHONPATH is left out: pip builds packages with one that hides the environment's own packages, pip among them.
    """
    tool = command[0]
    if shutil.which(tool) is None:
        raise FetchError(f"{tool} is not installed, and {download.name} needs it", "use a Debian-like system")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FetchError(
            f"cannot fetch {download.package} {download.version} ({download.kind}): {reason}",
            "check the network and the package index that pip or apt is configured for, then run it again",
        )
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0 good, 3 when a download cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="entries of downloads.lock")
    parser.add_argument("--list", action="store_true", help="show the entries")
    parser.add_argument("--lock", type=Path, default=ROOT / "downloads.lock", help="another lock file")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache", help="another cache folder")
    options = parser.parse_args(arguments)
    try:
        lock = read_lock(options.lock)
        if options.list or not options.names:
            for entry in lock.values():
                what = f"{entry.package} {entry.version}" if isinstance(entry, Download) else " + ".join(entry.parts)
                print(f"{entry.name}: {what} ({entry.kind}): {entry.purpose}")
            return 0
        for name in options.names:
            if name not in lock:
                raise FetchError(f"downloads.lock has no entry {name!r}", f"entries are {', '.join(lock)}")
            print(fetch_entry(lock[name], lock, options.cache.resolve()))
    except FetchError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
