"""The C interface only grows: what a release had, all later versions have."""

from __future__ import annotations

import re
import subprocess

import pytest
from tests.plugins.native import ROOT, needs

LIST = "plugins/runtime/abi/hsmrt_symbols_v1.txt"
HEADER = ROOT / "plugins" / "runtime" / "include" / "hsm_runtime.h"


def names(text: str) -> set[str]:
    return {line for line in text.splitlines() if line and not line.startswith("#")}


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_list_is_what_the_header_declares() -> None:
    """The library's own symbols are compared with the list by the test `hsm_runtime_symbols` of ctest."""
    declared = set(re.findall(r"HSMRT_API [^;]*?\b(hsmrt_\w+)\(", HEADER.read_text()))
    listed = (ROOT / LIST).read_text().splitlines()
    assert names("\n".join(listed)) == declared
    assert [line for line in listed if not line.startswith("#")] == sorted(declared)


@needs("git")
def test_nothing_of_a_release_is_gone() -> None:
    tags = git("tag", "--list", "v*").stdout.split()
    if not tags:
        pytest.skip("nothing was released yet: there is no tag v*")
    for tag in tags:
        released = git("show", f"{tag}:{LIST}")
        if released.returncode == 0:
            assert names(released.stdout) <= names((ROOT / LIST).read_text()), tag
