"""An operator is its family's folder: no other code names it, so that adding one edits no file of others."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hsm_operators import OPERATORS
from hsm_operators.registry import families

ROOT = Path(__file__).resolve().parents[2]
CODE = ("exporter", "plugins", "tools", "docker", "examples", "README.md", "Makefile", "pyproject.toml")
FAMILIES = tuple(f"plugins/hsm_operators/{package.rpartition('.')[2]}/" for package in families())
# They speak of the models of the papers, and of what a demonstration exports.
ABOUT_MODELS = {
    "README.md",
    "pyproject.toml",
    "exporter/hsm_export/__init__.py",
    "exporter/hsm_export/importing.py",
    "exporter/hsm_export/cli/__init__.py",
    "exporter/hsm_export/cli/import_.py",
}
EXAMPLES = {"examples/training/plain_loop.py"}  # it trains one model of each mixer
# What is the same for all operators is tried with some of ours.
TESTS = {"plugins/hsm_operators/common/test_opset.cc"}
EXEMPT = ABOUT_MODELS | EXAMPLES | TESTS
# A word of the field, and the name of an operator of ONNX and of ONNX Runtime.
ORDINARY = {"Attention", "attention"}


def files() -> list[str]:
    found = subprocess.run(["git", "ls-files", *CODE], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("this is no git checkout")
    return found.stdout.splitlines()


def test_no_code_names_an_operator_but_its_family() -> None:
    words = {word for operator in OPERATORS.values() for word in (operator.name, operator.torch_name)} - ORDINARY
    pattern = re.compile(rf"(?<![A-Za-z])({'|'.join(sorted(words, key=len, reverse=True))})(?![a-z])")
    naming = set()
    for name in files():
        if name.startswith(FAMILIES) or ".gen." in name or not (ROOT / name).is_file():
            continue
        if pattern.search((ROOT / name).read_text(encoding="utf-8", errors="replace")):
            naming.add(name)
    assert naming - EXEMPT == set()
    assert EXEMPT - naming == set(), "these no longer need an exemption"
