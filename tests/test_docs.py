"""The documentation says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

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


def test_the_mixer_in_the_documentation_stands_in_a_model() -> None:
    import torch

    from hsm_models import HSMConfig, LayerConfig, ModelConfig, build_model

    section = (ROOT / "docs" / "exporting.md").read_text().split("## Your own mixer in our models")[1]
    code = re.search(r"^    .*\n(?:    .*\n|\n)*", section, re.MULTILINE)
    assert code is not None
    names: dict[str, Any] = {"__name__": __name__}
    exec(textwrap.dedent(code.group()), names)
    layers = (LayerConfig(names["GatedConfig"](bias=False)), LayerConfig(HSMConfig()))
    config = ModelConfig(task="language_model", width=8, vocab_size=5, layers=layers)
    model = build_model(ModelConfig.from_json(config.to_json()))
    assert model(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, 5)
