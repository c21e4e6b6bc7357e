"""The documentation says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_cli_documentation_is_the_help_text(tmp_path: Path) -> None:
    # In a process of its own: click keeps the help option of whoever asked a command first.
    subprocess.run([sys.executable, ROOT / "tools" / "write_cli_docs.py", tmp_path / "cli.md"], check=True)
    text = (tmp_path / "cli.md").read_text()
    assert (ROOT / "docs" / "cli.md").read_text() == text, "run `python tools/write_cli_docs.py`"


def test_relative_links_in_the_documentation_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"
