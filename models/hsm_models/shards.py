"""Weights in several safetensors files, in the layout of Hugging Face's transformers.

A folder holds `model.safetensors`, or shards beside `model.safetensors.index.json`, whose `weight_map` names the file
of each weight.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from .errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_JSON_BYTES = 64 << 20


def weight_files(folder: Path, single: str = WEIGHTS_FILE) -> list[Path]:
    """Return the weight files of a folder: one, or the shards of its index.

    Args:
        folder: the folder.
        single: the name of the file where it is one; that of the index begins with it.

    Raises:
        CheckpointError: there is none, or a shard is missing or outside of the folder.
    """
    index = f"{single}.index.json"
    names = sorted(set(read_index(folder, index).values())) or [single]
    if any(Path(name).name != name for name in names):
        raise CheckpointError(f"{folder / index} names files outside of its folder")
    files = [folder / name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"the folder {folder} lacks {', '.join(missing)}; copy or download it again")
    return files


def read_index(folder: Path, index: str = INDEX_FILE) -> dict[str, str]:
    """Return the file of each weight, from a sharded folder's index; empty without one."""
    path = folder / index
    found = read_json(path).get("weight_map") if path.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f"{path} is no index of shards: it has no weight_map of names to files")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        CheckpointError: there is none.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is not readable JSON: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


class Shards:
    """Several open safetensors files, read as one.

    Args:
        files: the open files.
        folder: where they lie.

    Raises:
        CheckpointError: a weight is in two of them, or one that the index names in none.
    """

    def __init__(self, files: list[Any], folder: Path) -> None:
        self._files = files
        self._homes: dict[str, Any] = {}
        for file in files:
            for name in file.keys():  # noqa: SIM118
                if name in self._homes:
                    raise CheckpointError(f"{folder} holds {name} in two shards")
                self._homes[name] = file
        lost = sorted(set(read_index(folder)) - set(self._homes))
        if lost:
            raise CheckpointError(f"{folder} lacks {', '.join(lost[:5])}, which {INDEX_FILE} lists; copy it again")

    def keys(self) -> list[str]:
        """Return the names of all weights."""
        return list(self._homes)

    def get_tensor(self, name: str) -> Any:
        """Return a weight."""
        return self._homes[name].get_tensor(name)

    def get_slice(self, name: str) -> Any:
        """Return what tells a weight's shape and type, and reads parts of it."""
        return self._homes[name].get_slice(name)

    def metadata(self) -> dict[str, str] | None:
        """Return the metadata of the first file; every shard has the same."""
        return self._files[0].metadata()


@contextlib.contextmanager
def open_weights(path: Path, framework: str = "pt") -> Iterator[Any]:
    """Open a safetensors file, or the shards of a folder as one, for reading; headers are checked against sizes.

    Args:
        path: the file, or the folder.
        framework: of the tensors: "pt" or "numpy".

    Raises:
        CheckpointError: they cannot be read.
    """
    files = weight_files(path) if path.is_dir() else [path]
    with contextlib.ExitStack() as stack:
        opened = []
        for file in files:
            try:
                opened.append(stack.enter_context(safetensors.safe_open(file, framework=framework)))
            except (safetensors.SafetensorError, OSError, UnicodeDecodeError) as error:
                raise CheckpointError(
                    f"{file} is not a complete safetensors file ({error}); copy or download it again"
                ) from error
        try:
            yield Shards(opened, path) if path.is_dir() and read_index(path) else opened[0]
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error


def split(tensors: Mapping[str, Tensor], limit: int | None) -> dict[str, dict[str, Tensor]]:
    """Return the weights of each file by its name; files hold up to `limit` bytes, or a single larger weight.

    Args:
        tensors: the weights, in the order in which they are stored.
        limit: bytes of a shard; None is a single file.
    """
    groups: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if limit is not None and groups[-1] and filled + size > limit:
            groups.append({})
            filled = 0
        groups[-1][name] = tensor
        filled += size
    if len(groups) == 1:
        return {WEIGHTS_FILE: groups[0]}
    stem = WEIGHTS_FILE.removesuffix(".safetensors")
    return {
        f"{stem}-{number:05}-of-{len(groups):05}.safetensors": group for number, group in enumerate(groups, start=1)
    }


def index_of(files: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Return the text of the index of shards."""
    size = sum(tensor.numel() * tensor.element_size() for group in files.values() for tensor in group.values())
    places = {name: file for file, group in files.items() for name in group}
    return json.dumps({"metadata": {"total_size": size}, "weight_map": places}, indent=2, sort_keys=True) + "\n"
