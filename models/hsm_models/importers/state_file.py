"""Reading the authors' weight files without running anything that they contain."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..shards import WEIGHTS_FILE, read_index, read_json, weight_files
from .mapping import DTYPES

# Where training codes put a model's own weights, in this order; other entries may hold averages of them.
WEIGHT_KEYS = ("model_state", "model", "state_dict", "model_state_dict", "module", "net")
# What transformers wrote before safetensors.
PICKLED_FILE = "pytorch_model.bin"
# What torch.compile, DataParallel, DeepSpeed, FSDP and checkpointing put into names.
_WRAPPERS = re.compile(
    r"^(?:(?:module|_orig_mod|_forward_module|_fsdp_wrapped_module)\.)+"
    r"|(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Weights that are not yet, or no longer, the model's own: names, and what to do first.
_UNMERGED = (
    (
        r"\.lora_|\.base_layer\.|^base_model\.",
        "LoRA that is not merged into the weights",
        "what merge_and_unload() gives",
    ),
    (r"\.parametrizations\.", "parametrised weights", "what torch.nn.utils.parametrize.remove_parametrizations leaves"),
    (r"\.weight_[gv]$", "a weight norm", "what torch.nn.utils.remove_weight_norm leaves"),
    (r"\.(weight|bias)_(orig|mask)$", "pruned weights with masks", "what torch.nn.utils.prune.remove leaves"),
    (
        r"\.(SCB|qweight|qzeros|weight_scale\w*|absmax|weight\.(absmax|quant_\w+|nested_\w+))$",
        "quantised weights",
        "the weights from before quantisation",
    ),
)
# Both training codes keep their options in a dictionary subclass with attribute access; a plain dict holds the same.
_DICTIONARY_CLASSES = ("framework.data_structures.dotdict.DotDict", "utils.DotDict")


@dataclass(frozen=True)
class StateFile:
    """What an authors' file holds.

    Attributes:
        weights: the model's state dict, without the prefixes that torch.compile and DataParallel add.
        arguments: the training options stored beside the weights; empty in a plain state dict.
        key: the entry of the file that held them, "" for the file itself.
        others: other entries that hold state dicts, such as running averages.
    """

    weights: dict[str, torch.Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    others: tuple[str, ...] = ()


def read_state_file(path: str | Path, key: str | None = None) -> StateFile:
    """Read a `.tar`, `.pth` or `.pt` training file, a plain state dict, a `.safetensors` file, or a folder of these.

    Args:
        path: the file, or a folder as transformers writes it: `config.json`, which becomes the options, beside
            `model.safetensors` or the shards that `model.safetensors.index.json` lists, or, in a folder without these,
            `pytorch_model.bin` or the shards of its index. Training files hold the weights under the key `model_state`
            (TaylorShift), `model` (SwitchHead, MoEUT) or another of `WEIGHT_KEYS`.
        key: the entry that holds the weights, where it is not the first of those.

    Returns:
        The weights on the CPU and the training options.

    Raises:
        CheckpointError: the file is missing, damaged, a pickle that needs more than tensors and plain containers,
            or holds no state dict, or weights that are not dense, finite tensors.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(f"the checkpoint {path} is not a file")
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    found, others = _find_key(content, path, key)
    weights = _find_weights(content[found] if found else content, path)
    for name, tensor in weights.items():
        _check_tensor(name, tensor, path)
    return StateFile(_strip_prefixes(weights, path), _find_arguments(content), found, others)


def _read_folder(folder: Path) -> StateFile:
    """Read a folder in the layout of Hugging Face's transformers."""
    weights: dict[str, torch.Tensor] = {}
    single = _single(folder)
    load = _load_pickle if single == PICKLED_FILE else _load_safetensors
    for file in weight_files(folder, single):
        for name, tensor in _find_weights(load(file), file).items():
            if name in weights:
                raise CheckpointError(f"{folder} holds {name} in two shards")
            _check_tensor(name, tensor, file)
            weights[name] = tensor
    index = f"{single}.index.json"
    lost = sorted(set(read_index(folder, index)) - set(weights))
    if lost:
        raise CheckpointError(f"{folder} lacks {', '.join(lost[:5])}, which {index} lists; download it again")
    config = folder / "config.json"
    return StateFile(_strip_prefixes(weights, folder), read_json(config) if config.is_file() else {})


def folder_files(folder: Path) -> list[Path]:
    """Return the files of a folder's weights: safetensors, or pickles where it has none.

    Raises:
        CheckpointError: there are neither, or a shard is missing or outside of the folder.
    """
    return weight_files(folder, _single(folder))


def _single(folder: Path) -> str:
    """Return the name that a folder's only file of weights has, or that its index begins with."""
    for single in (WEIGHTS_FILE, PICKLED_FILE):
        if (folder / single).is_file() or (folder / f"{single}.index.json").is_file():
            return single
    raise CheckpointError(
        f"the folder {folder} holds neither {WEIGHTS_FILE} nor {PICKLED_FILE}, nor an index of shards"
    )


def _load_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {_first_line(error)}") from error


def _load_pickle(path: Path) -> Any:
    """Load with torch's restricted unpickler, which builds tensors and plain containers and calls nothing else."""
    _check_archive(path)
    try:
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals([(dict, name) for name in _DICTIONARY_CLASSES]),
        ):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from error
    except Exception as error:
        # A damaged pickle can raise nearly anything (EOFError, KeyError, struct.error, UnicodeDecodeError, …).
        raise CheckpointError(f"{path} is not a readable PyTorch file: {_first_line(error)}") from error


def _check_archive(path: Path) -> None:
    """Refuse compressed archives: torch.save never writes one, and a small one can fill the memory."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"{path} is a damaged archive: {_first_line(error)}") from error
    if compressed:
        raise CheckpointError(f"{path} has compressed records, which torch.save does not write; it was not loaded")


def _refusal(path: Path, error: Exception) -> str:
    text = str(error)
    match = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"type <class '([\w.]+)'>", text)
    if match:
        return (
            f"{path} was not loaded: its pickle asks for {match.group(1)}, and only tensors and plain containers are "
            "allowed, because anything else could run code"
        )
    return f"{path} was not loaded: it is not a pickle of tensors and plain containers"


def _find_key(content: Any, path: Path, key: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the entry that holds the weights, "" for the file itself, and the other entries that hold some."""
    entries = [str(name) for name, value in content.items() if _is_state(value)] if isinstance(content, Mapping) else []
    found = key if key is not None else next((name for name in WEIGHT_KEYS if name in entries), "")
    if not found and not entries and isinstance(content, Mapping):
        return next((name for name in WEIGHT_KEYS if isinstance(content.get(name), Mapping)), ""), ()
    if found and found not in entries:
        raise CheckpointError(
            f"{path} has no weights under {found!r}; it has {', '.join(map(repr, entries)) or 'none'}"
        )
    if not found and entries and not _is_state(content):
        raise CheckpointError(
            f"{path} holds weights under {', '.join(map(repr, entries))}: say which by weights_key (--weights-key)"
        )
    return found, tuple(name for name in entries if name != found)


def _is_state(value: Any) -> bool:
    """Return whether something is a state dict: tensors, and at least one, by name."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(item, torch.Tensor) for name, item in value.items())


def _find_weights(content: Any, path: Path) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path} holds no state dict: neither a mapping of names to tensors nor one under the key "
            + " or ".join(f"`{key}`" for key in WEIGHT_KEYS)
        )
    strangers = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strangers:
        raise CheckpointError(f"{path} is not a state dict: {', '.join(strangers[:5])} are not tensors")
    return {str(name): value.detach() for name, value in content.items()}


def _find_arguments(content: Any) -> dict[str, Any]:
    """Return the training options: `args` in TaylorShift's files, `run_invariants.args` in SwitchHead's."""
    if not isinstance(content, Mapping):
        return {}
    invariants = content.get("run_invariants")
    found = invariants.get("args") if isinstance(invariants, Mapping) else content.get("args")
    return {str(name): value for name, value in found.items()} if isinstance(found, Mapping) else {}


def _strip_prefixes(weights: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Remove what wrappers put into names, and refuse weights that are not the model's own."""
    stripped: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        short = _WRAPPERS.sub("", name)
        if short in stripped:
            raise CheckpointError(f"{path} holds {short} twice, with and without a prefix")
        stripped[short] = tensor
    for pattern, feature, first in _UNMERGED:
        found = next((name for name in stripped if re.search(pattern, name)), None)
        if found is not None:
            raise CheckpointError(f"{path} has {found}: {feature}; import {first}")
    return stripped


def without_prefix(weights: dict[str, torch.Tensor], anchors: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], str]:
    """Remove what stands before every name of a model that was a part of another module, such as Lightning's `model.`.

    Args:
        weights: the state dict.
        anchors: names of which each model of the layout has one.

    Returns:
        The state dict, and the prefix, "" for none.

    Raises:
        CheckpointError: several models are in the file.
    """
    if any(name in weights for name in anchors):
        return weights, ""
    found = {name.removesuffix(anchor) for name in weights for anchor in anchors if name.endswith(f".{anchor}")}
    if len(found) > 1:
        raise CheckpointError(f"the file holds several models: {', '.join(sorted(found))}; import one of them alone")
    prefix = found.pop() if found else ""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}, prefix


def _check_tensor(name: str, tensor: torch.Tensor, path: Path) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise CheckpointError(f"{path}: {name} is not a dense tensor")
    # A tiny file can claim a huge tensor by strides of zero.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{path}: {name} claims shape {tuple(tensor.shape)}, more than the data behind it")
    if tensor.dtype in DTYPES and not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{path}: {name} has NaN or infinite values")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
