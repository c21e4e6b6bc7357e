#!/usr/bin/env python3
"""Fetch what downloads.lock names: verify the SHA-256, unpack into .cache/, print the folder.

Wheels come through pip and Debian packages through apt-get, so mirrors and proxies are configured where they always
are. Nothing that was downloaded is executed: wheels and Debian packages are only unpacked (which is why source
archives, whose build scripts pip would run, are not a kind here).

Examples:
    python tools/fetch.py kjv-text
    python tools/fetch.py --list
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("wheel", "debian")


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
        kind: "wheel" (PyPI) or "debian".
        package: name in the package registry.
        version: exact version.
        file: name of the file that the registry serves.
        sha256: of that file, hexadecimal.
        licence: under which terms it may be used.
        purpose: what the project needs it for.
    """

    name: str
    kind: str
    package: str
    version: str
    file: str
    sha256: str
    licence: str
    purpose: str


def read_lock(path: Path) -> dict[str, Download]:
    """Read the lock file.

    Raises:
        FetchError: the file is missing, no TOML, or an entry lacks a field or has an unknown one.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
        downloads = {name: Download(name=name, **fields) for name, fields in entries.items()}
    except (OSError, tomllib.TOMLDecodeError, TypeError) as error:
        raise FetchError(f"cannot read {path}: {error}", "restore downloads.lock from the repository") from error
    for download in downloads.values():
        if download.kind not in KINDS:
            raise FetchError(f"{path}: {download.name} has kind {download.kind!r}", f"use one of {', '.join(KINDS)}")
    return downloads


def fetch(download: Download, cache: Path) -> Path:
    """Return the folder with the unpacked contents, downloading it only when the cache lacks it.

    Raises:
        FetchError: the registry cannot be reached, serves another file, or a tool is missing.
    """
    folder = cache / f"{download.name}-{download.sha256[:12]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=cache) as name:
        scratch = Path(name)
        archive = _download(download, scratch)
        _verify(download, archive)
        contents = scratch / "contents"
        _unpack(download, archive, contents)
        contents.rename(folder)
    return folder


def _download(download: Download, folder: Path) -> Path:
    """Let the registry's own client put the file into `folder`."""
    if download.kind == "wheel":
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", "."]
        command = [sys.executable, "-m", "pip", "download", *options, f"{download.package}=={download.version}"]
    else:
        command = ["apt-get", "--quiet", "download", f"{download.package}={download.version}"]
    _run(download, command, folder)
    archive = folder / download.file
    if not archive.is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise FetchError(
            f"the registry served {found} for {download.package} {download.version}, not {download.file}",
            "this machine's platform or distribution is not the one that downloads.lock pins",
        )
    return archive


def _verify(download: Download, archive: Path) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
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
    else:
        _run(download, ["dpkg-deb", "-x", str(archive), str(target)], target.parent)


def _run(download: Download, command: list[str], folder: Path) -> None:
    tool = command[0]
    if shutil.which(tool) is None:
        raise FetchError(f"{tool} is not installed, and {download.name} needs it", "use a Debian-like system")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FetchError(
            f"cannot fetch {download.package} {download.version} ({download.kind}): {reason}",
            "check the network and the package index that pip or apt is configured for, then run it again",
        )


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0 good, 3 when a download cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="entries of downloads.lock")
    parser.add_argument("--list", action="store_true", help="show the entries")
    parser.add_argument("--lock", type=Path, default=ROOT / "downloads.lock", help="another lock file")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache", help="another cache folder")
    options = parser.parse_args(arguments)
    try:
        downloads = read_lock(options.lock)
        if options.list or not options.names:
            for download in downloads.values():
                print(f"{download.name}: {download.package} {download.version} ({download.kind}): {download.purpose}")
            return 0
        for name in options.names:
            if name not in downloads:
                raise FetchError(f"downloads.lock has no entry {name!r}", f"entries are {', '.join(downloads)}")
            print(fetch(downloads[name], options.cache.resolve()))
    except FetchError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
