"""The study of damaged files itself, on a few of them; `tools/check_all.py` damages 500."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest
from tests.studies.damaged_files import COMMANDS, Ending, damaged, ending, good_models, study

MODELS = sorted(good_models())


def test_every_command_ends_as_documented(tmp_path: Path) -> None:
    found = study(10, 11, ["inspect"], tmp_path) + study(3, 12, ["validate", "diff"], tmp_path)
    assert len(found) == 16
    assert not [item for item in found if not item.right]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", MODELS)
def test_the_files_are_good_before_they_are_damaged(name: str, tmp_path: Path) -> None:
    model = good_models()[name]
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    assert ending("inspect", path).code == 0


@pytest.mark.parametrize("name", MODELS)
def test_every_damage_changes_the_file_and_is_the_same_again(name: str) -> None:
    model = good_models()[name]
    found = [damaged(model, random.Random(seed)) for seed in range(40)]
    assert found == [damaged(model, random.Random(seed)) for seed in range(40)]
    changed = [content for content in found if content != model.SerializeToString()]
    assert len(set(changed)) > 30


def test_an_end_that_no_page_has_is_wrong(tmp_path: Path) -> None:
    for code in (1, 3, 130, -11, None):
        assert not any(Ending(command, "", code, 0.0, 0, "").right for command in COMMANDS)
    path = tmp_path / "m.onnx"
    onnx.save(good_models()["dense"], path)
    assert ending("diff", path, seconds=0.001).code is None
