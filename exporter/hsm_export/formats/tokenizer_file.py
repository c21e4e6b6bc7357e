"""Files of tokenizers: which kind one is, which belongs to a model, and how it travels with the model's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from hsm_models.tokenizer_files import own_name, put_beside, remove_others, tokenizer_beside

from ..errors import BadInputError
from ..files import require_file

# Ids of a model whose tokens are the bytes of UTF-8 text; it needs no file.
BYTES = 256
# All characters of Unicode, escaped, have fewer.
_MOST_BYTES = 16 * 1024 * 1024
_CHECKPOINT = ".safetensors"

TokenizerKind = Literal["characters", "rwkv", "sentencepiece", "huggingface"]


def tokenizer_kind(path: str | Path) -> TokenizerKind:
    """Return the kind of a tokenizer's file, see `hsm_export.decoding.tokenizer.open_tokenizer`.

    Raises:
        BadInputError: the file is missing.
    """
    path = require_file(path, "the tokenizer")
    if path.suffix == ".model":
        return "sentencepiece"
    if path.suffix == ".txt":
        return "rwkv"
    return "huggingface" if characters_of(path) is None else "characters"


def tokenizer_of(model: object, vocabulary: int | None) -> Path | None:
    """Return the tokenizer that belongs to a model; None for bytes, and where there is none.

    Args:
        model: an ONNX file, a checkpoint, "zoo:NAME" or a bundle's folder; anything else has none.
        vocabulary: how many token ids the model has, None if it has none; 256 are bytes.
    """
    if vocabulary in (None, BYTES) or not isinstance(model, (str, Path)):
        return None
    path = _resolved(model)
    if not path.exists():  # FILE.py:FACTORY
        return None
    weights = path / "model.safetensors" if path.is_dir() else path
    if weights.suffix == _CHECKPOINT and weights.is_file() and _stored_characters(weights) is not None:
        return weights
    return tokenizer_beside(path)


def copy_tokenizer(tokenizer: Path, output: Path) -> Path:
    """Copy a tokenizer beside a model's file NAME.SUFFIX, as NAME.tokenizer.SUFFIX, and return the copy.

    The characters that a checkpoint lists are written as a table of their own. A tokenizer of another kind that the
    file had is removed: it was another model's.
    """
    if tokenizer.suffix != _CHECKPOINT:
        return put_beside(tokenizer, output)
    copy = tokenizer_copy(tokenizer, output)
    copy.write_text(json.dumps({"characters": characters_of(tokenizer)}, ensure_ascii=False), encoding="utf-8")
    remove_others(output, copy)
    return copy


def tokenizer_copy(tokenizer: Path, output: Path) -> Path:
    """Return where `copy_tokenizer` puts a copy."""
    return output.with_name(own_name(output, ".json" if tokenizer.suffix == _CHECKPOINT else tokenizer.suffix))


def characters_of(path: Path) -> str | None:
    """Return the characters by id that a JSON file or a checkpoint of ours lists; None for another file.

    Raises:
        BadInputError: a checkpoint that lists none.
    """
    if path.suffix == _CHECKPOINT:
        characters = _stored_characters(path)
        if characters is None:
            raise BadInputError(f"{path} lists no characters", "name a checkpoint that was trained with --level char")
        return characters
    if path.stat().st_size > _MOST_BYTES:
        return None
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or set(document) != {"characters"}:
        return None
    return document["characters"] if isinstance(document["characters"], str) else None


def _stored_characters(path: Path) -> str | None:
    """Return the characters that a checkpoint's metadata list; None without."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            characters = json.loads((file.metadata() or {}).get("vocabulary", "null"))
    except (SafetensorError, ValueError) as error:
        raise BadInputError(f"{path} is not a checkpoint: {error}") from error
    return characters if isinstance(characters, str) else None


def _resolved(model: str | Path) -> Path:
    from hsm_models import zoo

    name = str(model)
    return zoo.path(name.removeprefix("zoo:")) if name.startswith("zoo:") else Path(model)
