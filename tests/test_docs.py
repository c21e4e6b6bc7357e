"""The documentation says what the code does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_cli_documentation_is_the_help_text() -> None:
    text = runpy.run_path(str(ROOT / "tools" / "write_cli_docs.py"))["text"]()
    assert (ROOT / "docs" / "cli.md").read_text() == text, "run `python tools/write_cli_docs.py`"


def test_relative_links_in_the_documentation_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"
