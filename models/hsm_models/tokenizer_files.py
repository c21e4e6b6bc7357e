"""Where the file of a model's tokenizer lies, and how it travels with a checkpoint. Reads no tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

SUFFIXES = (".json", ".model", ".txt")
# In a folder, in the order in which they are looked for.
NAMES = ("tokenizer.json", "tokenizer.model", "characters.json")
RWKV_NAMES = "rwkv_vocab*.txt"
_IN_A_FOLDER = {".json": "tokenizer.json", ".model": "tokenizer.model", ".txt": "rwkv_vocab.txt"}


def tokenizer_beside(path: str | Path) -> Path | None:
    """Return the tokenizer that lies in a model's folder, or beside a file; None without one.

    Args:
        path: a folder (tokenizer.json, tokenizer.model, characters.json or rwkv_vocab*.txt in it), or a file
            NAME.SUFFIX, whose own is called NAME.tokenizer.json, .model or .txt, and comes before those of its folder.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    own = [] if path.is_dir() else [own_name(path, suffix) for suffix in SUFFIXES]
    found = [folder / name for name in (*own, *NAMES) if (folder / name).is_file()]
    found = found or sorted(folder.glob(RWKV_NAMES))
    return found[0] if found else None


def own_name(file: Path, suffix: str) -> str:
    """Return what the tokenizer beside a model's file is called."""
    return f"{file.stem}.tokenizer{suffix}"


def put_beside(tokenizer: Path, model: Path) -> Path:
    """Copy a tokenizer's file into a model's folder, or beside its file NAME.SUFFIX as NAME.tokenizer.SUFFIX.

    Returns:
        The copy, now the model's only tokenizer.
    """
    if model.is_dir():
        copy = model / _IN_A_FOLDER.get(tokenizer.suffix, tokenizer.name)
    else:
        copy = model.with_name(own_name(model, tokenizer.suffix))
    if copy.resolve() != tokenizer.resolve():
        shutil.copyfile(tokenizer, copy)
    remove_others(model, copy, tokenizer)
    return copy


def remove_others(model: Path, *kept: Path) -> None:
    """Remove the other tokenizers that a model has: they were another model's."""
    if model.is_dir():
        found = {*(model / name for name in NAMES), *model.glob(RWKV_NAMES)}
    else:
        found = {model.with_name(own_name(model, suffix)) for suffix in SUFFIXES}
    for other in found - set(kept):
        other.unlink(missing_ok=True)
