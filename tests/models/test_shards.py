"""Checkpoints in several files, in the layout of Hugging Face's transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.models.examples import LANGUAGE_MODELS

from hsm_models import build_model, fingerprint, load_checkpoint, read_config, save_checkpoint
from hsm_models.checkpoint import read_metadata
from hsm_models.errors import CheckpointError
from hsm_models.importers.state_file import read_state_file

CONFIG = LANGUAGE_MODELS["rwkv7"]
LIMIT = 8_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = build_model(CONFIG)
    save_checkpoint(model, tmp_path / "whole.safetensors")
    save_checkpoint(model, tmp_path / "parts", {"note": "kept"}, shard_bytes=LIMIT)
    return tmp_path / "parts"


def test_shards_are_read_back_equal(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert not (folder / "model.safetensors").exists()
    sizes = [sum(t.numel() * 4 for t in load_file(folder / name).values()) for name in files]
    assert max(sizes) <= LIMIT and sum(sizes) == index["metadata"]["total_size"]
    whole, parts = folder.parent / "whole.safetensors", load_checkpoint(folder)
    expected = load_checkpoint(whole).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parts.state_dict().items())
    assert fingerprint(folder) == fingerprint(whole) and read_config(folder) == CONFIG
    assert read_metadata(folder)["note"] == "kept"


def test_other_readers_of_that_layout_find_the_same(folder: Path) -> None:
    file = read_state_file(folder)
    assert set(file.weights) == set(build_model(CONFIG).state_dict())
    assert file.arguments["task"] == "language_model"


def test_what_is_no_longer_part_of_the_checkpoint_is_removed(folder: Path) -> None:
    model = build_model(CONFIG)
    save_checkpoint(model, folder, shard_bytes=2 * LIMIT)
    assert len(list(folder.glob("model-*"))) == len(
        set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    )
    save_checkpoint(model, folder)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    load_checkpoint(folder)
    save_checkpoint(model, folder, shard_bytes=1)  # every weight in a file of its own
    assert len(list(folder.glob("model-*"))) == len(model.state_dict())
    load_checkpoint(folder)


def test_damaged_folders_are_refused(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = folder / sorted(set(content["weight_map"].values()))[0]
    index.write_text(json.dumps({"weight_map": content["weight_map"] | {"more": first.name}}))
    with pytest.raises(CheckpointError, match="lacks more"):
        load_checkpoint(folder)
    index.write_text(json.dumps(content))
    first.write_bytes(first.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_checkpoint(folder)
    first.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {first.name}"):
        load_checkpoint(folder)


def test_a_single_file_has_no_shards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is one file; shards need a folder"):
        save_checkpoint(build_model(CONFIG), tmp_path / "m.safetensors", shard_bytes=10)
