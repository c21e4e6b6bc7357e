"""A tokenizer goes with its model: from the checkpoint into files and bundles, and `generate` finds it there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hsm_export
from hsm_export.bundling import bundle
from hsm_export.decoding.sampling import GREEDY
from hsm_export.errors import UsageError
from hsm_export.formats.tokenizer_file import tokenizer_of
from hsm_models import HSMConfig, LayerConfig, MLPConfig, ModelConfig, save_checkpoint
from hsm_models.checkpoint import build_model
from hsm_models.tokenizer_files import tokenizer_beside

CHARACTERS = "abcdefgh é\n"


def _checkpoint(path: Path, vocabulary: int, extra: dict[str, str] | None = None) -> Path:
    torch.manual_seed(3)
    config = ModelConfig(
        "language_model", 64, (LayerConfig(HSMConfig(shifts=(1,)), MLPConfig(128)),), vocab_size=vocabulary
    )
    save_checkpoint(build_model(config), path, extra)
    return path


def _text(model: Path, prompt: str) -> str:
    return hsm_export.generate(model, prompt, max_tokens=8, sampling=GREEDY).completions[0].text


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    extra = {"level": "char", "vocabulary": json.dumps(CHARACTERS)}
    return _checkpoint(tmp_path_factory.mktemp("characters") / "c.safetensors", len(CHARACTERS), extra)


def test_characters_of_a_checkpoint_reach_its_file_and_its_bundle(characters: Path, tmp_path: Path) -> None:
    expected = _text(characters, "bad cafe")
    assert len(expected) == 8
    file = tmp_path / "m.decode.onnx"
    result = hsm_export.export(characters, output=file, decode=True)
    assert result.tokenizer == tmp_path / "m.decode.tokenizer.json"
    assert json.loads(result.tokenizer.read_text(encoding="utf-8")) == {"characters": CHARACTERS}
    assert json.loads(result.report.read_text(encoding="utf-8"))["tokenizer"] == "m.decode.tokenizer.json"
    assert _text(file, "bad cafe") == expected
    # From beside the file, and from the checkpoint itself.
    assert bundle(decode=file, output=tmp_path / "file.hsm").tokenizer == "characters"
    result.tokenizer.unlink()
    assert bundle(decode=file, output=tmp_path / "checkpoint.hsm", against=characters).tokenizer == "characters"
    assert _text(tmp_path / "checkpoint.hsm", "bad cafe") == expected


def test_a_quantised_file_keeps_the_tokenizer(characters: Path, tmp_path: Path) -> None:
    hsm_export.export(characters, output=tmp_path / "m.onnx", decode=True)
    hsm_export.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", "kl=1")
    assert (tmp_path / "q.tokenizer.json").read_bytes() == (tmp_path / "m.tokenizer.json").read_bytes()


def test_an_export_replaces_the_tokenizer_of_another_model(tmp_path: Path) -> None:
    source = _checkpoint(tmp_path / "own", 300)
    (source / "rwkv_vocab_v1.txt").write_text("".join(f"{i} {chr(255 + i)!r} 2\n" for i in range(1, 300)))
    (tmp_path / "m.tokenizer.json").write_text("another's")
    result = hsm_export.export(source, output=tmp_path / "m.onnx", decode=True)
    assert [path.name for path in tmp_path.glob("m.tokenizer.*")] == ["m.tokenizer.txt"]
    assert result.tokenizer == tokenizer_beside(tmp_path / "m.onnx")
    assert len(_text(tmp_path / "m.onnx", "āĂ")) == 8


def test_bytes_need_no_tokenizer_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    source = _checkpoint(tmp_path / "m.safetensors", 256)
    (tmp_path / "tokenizer.json").write_text("another model's")
    assert hsm_export.export(source, output=tmp_path / "m.onnx", decode=True).tokenizer is None
    assert tokenizer_of(tmp_path / "m.onnx", 256) is None and tokenizer_of("nowhere.py:make", 300) is None
    assert _text(tmp_path / "m.onnx", "a")
    few = _checkpoint(tmp_path / "few.safetensors", 2)
    (tmp_path / "few.tokenizer.txt").write_text("1 'a' 1\n2 'b' 1\n")
    with pytest.raises(UsageError, match="the tokenizer has 3 token ids, but the model only 2"):
        _text(few, "a")


def test_a_bundle_without_a_decoding_model_cannot_generate(characters: Path, tmp_path: Path) -> None:
    hsm_export.export(characters, output=tmp_path / "whole.onnx")
    bundle(tmp_path / "whole.onnx", tmp_path / "whole.hsm")
    with pytest.raises(UsageError, match="has no decoding model"):
        _text(tmp_path / "whole.hsm", "a")
