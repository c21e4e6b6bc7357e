"""Checkpoints: a folder in Hugging Face's layout, or one .safetensors file with its configuration inside.

A folder holds config.json and model.safetensors, or shards of it and their index.

Nothing in a checkpoint is ever executed, and nothing is allocated before the file has proved that it holds it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import zoo
from .config import ModelConfig
from .errors import CheckpointError
from .language_model import LanguageModel
from .sequence_classifier import SequenceClassifier
from .shards import INDEX_FILE, WEIGHTS_FILE, index_of, open_weights, split

CONFIG_KEY = "config"
CONFIG_FILE = "config.json"
ZOO_PREFIX = "zoo:"
SHARDS = "model-?????-of-?????.safetensors"

_MAX_CONFIG_BYTES = 16 << 20
_FLOAT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_PICKLE_SUFFIXES = (".pt", ".pth", ".tar", ".bin", ".pkl", ".pickle", ".ckpt")
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04", b"\x1f\x8b")


def build_model(config: ModelConfig) -> LanguageModel | SequenceClassifier:
    """Make the model that a configuration describes, with fresh weights, in training mode.

    Raises:
        ConfigError: the configuration cannot be built.
    """
    return LanguageModel(config) if config.task == "language_model" else SequenceClassifier(config)


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return the path of a checkpoint given as a path or as "zoo:NAME".

    Raises:
        CheckpointError: no zoo model has that name.
    """
    text = os.fspath(path)
    return zoo.path(text[len(ZOO_PREFIX) :]) if text.startswith(ZOO_PREFIX) else Path(text)


def save_checkpoint(
    model: LanguageModel | SequenceClassifier,
    path: str | os.PathLike[str],
    extra: dict[str, str] | None = None,
    shard_bytes: int | None = None,
) -> None:
    """Write a checkpoint that `load_checkpoint` accepts; the old one stays until the new one is complete.

    Args:
        model: the model, in any floating dtype.
        path: a single file if it ends in .safetensors, else a folder.
        extra: more entries for the file's metadata, such as how the model was trained; "config" is taken.
        shard_bytes: in a folder, split larger weights into files of up to so many bytes, as transformers does.

    Raises:
        ValueError: shards in a single file.
        CheckpointError: the weights do not fit the model's configuration (a user-written mixing, for example), are
            not finite, or the disk does not take them.
    """
    target = Path(path)
    if shard_bytes is not None and target.suffix == ".safetensors":
        raise ValueError(f"{target} is one file; shards need a folder")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _check_names_and_shapes(model.config, {name: tuple(t.shape) for name, t in tensors.items()}, str(target))
    for name, tensor in tensors.items():
        _check_values(name, tensor, str(target))
    metadata = {**(extra or {}), CONFIG_KEY: model.config.to_json(indent=None)}
    try:
        if target.suffix == ".safetensors":
            _write(target, lambda part: save_file(tensors, part, metadata=metadata))
            return
        target.mkdir(parents=True, exist_ok=True)
        _write_folder(target, split(tensors, shard_bytes), metadata)
        _write(target / CONFIG_FILE, lambda part: part.write_text(model.config.to_json() + "\n", encoding="utf-8"))
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot write the checkpoint {target}: {error}") from error


def _write_folder(folder: Path, files: dict[str, dict[str, Tensor]], metadata: dict[str, str]) -> None:
    """Write the files of a folder's weights, and remove those of an earlier checkpoint that are no longer its."""
    old = {*folder.glob(SHARDS), folder / WEIGHTS_FILE, folder / INDEX_FILE}
    for name, tensors in files.items():
        _write(folder / name, lambda part, own=tensors: save_file(own, part, metadata=metadata))  # type: ignore[misc]
    if len(files) > 1:
        _write(folder / INDEX_FILE, lambda part: part.write_text(index_of(files), encoding="utf-8"))
        old.discard(folder / INDEX_FILE)
    for file in sorted(old - {folder / name for name in files}, reverse=True):  # the index before its shards
        file.unlink(missing_ok=True)


def load_checkpoint(path: str | os.PathLike[str]) -> LanguageModel | SequenceClassifier:
    """Load a checkpoint as a float32 model in evaluation mode.

    Float32 weights are mapped from the file, not copied, so that a large model needs its own size once.

    Args:
        path: a checkpoint file or folder, or "zoo:NAME".

    Raises:
        CheckpointError: missing, truncated, a pickle, weights that are not finite, or names or shapes that contradict
            the configuration.
        ConfigError: the configuration is malformed.
    """
    checkpoint = resolve(path)
    config = read_config(checkpoint)
    weights = _weights_file(checkpoint)
    with open_weights(weights) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        model = _check_names_and_shapes(config, shapes, str(checkpoint))
        wanted = model.state_dict()
        tensors = {name: _load_tensor(file, name, weights).reshape(wanted[name].shape) for name in shapes}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.requires_grad_(True).eval()


def read_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Read only the configuration of a checkpoint (or "zoo:NAME").

    Raises:
        CheckpointError, ConfigError: as `load_checkpoint`.
    """
    checkpoint = resolve(path)
    weights = _weights_file(checkpoint)
    if not checkpoint.is_dir():
        return ModelConfig.from_json(_embedded_config(weights))
    config_file = checkpoint / CONFIG_FILE
    if not config_file.is_file():
        raise CheckpointError(f"the checkpoint folder {checkpoint} has no {CONFIG_FILE}")
    if config_file.stat().st_size > _MAX_CONFIG_BYTES:
        raise CheckpointError(f"{config_file} is larger than {_MAX_CONFIG_BYTES >> 20} MiB: not a model configuration")
    try:
        return ModelConfig.from_json(config_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {config_file}: {error}") from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the metadata of a checkpoint's weights, among it what `save_checkpoint` was given as `extra`.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    with open_weights(_weights_file(resolve(path))) as file:
        return dict(file.metadata() or {})


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256, in hex, of a checkpoint's configuration and weights; folder and single file agree.

    Raises:
        CheckpointError, ConfigError: as `load_checkpoint`.
    """
    checkpoint = resolve(path)
    digest = hashlib.sha256(read_config(checkpoint).to_json(indent=None).encode())
    with open_weights(_weights_file(checkpoint)) as file:
        for name in sorted(file.keys()):
            tensor = _read_tensor(file, name, checkpoint)
            digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _weights_file(checkpoint: Path) -> Path:
    """Return the safetensors file of a checkpoint, or the folder of shards, refusing all that cannot be one."""
    if not checkpoint.exists():
        raise CheckpointError(f"there is no checkpoint at {checkpoint}")
    if (checkpoint / INDEX_FILE).is_file():
        return checkpoint
    weights = checkpoint / WEIGHTS_FILE if checkpoint.is_dir() else checkpoint
    if not weights.is_file():
        pickles = sorted(p.name for p in checkpoint.glob("*") if p.suffix in _PICKLE_SUFFIXES)
        hint = f"; import {pickles[0]} with `hsm-export import`" if pickles else ""
        raise CheckpointError(f"the checkpoint folder {checkpoint} has no {WEIGHTS_FILE}{hint}")
    if _is_pickle(weights):
        raise CheckpointError(
            f"{weights} is a pickle or an archive, which could run code when loaded; "
            "convert an author's with `hsm-export import`, which reads tensors only; load a state dict of your own "
            "into its model, and write that by hsm_models.save_checkpoint"
        )
    return weights


def _is_pickle(weights: Path) -> bool:
    """Tell pickles and archives from safetensors files, which start with the size of their JSON header."""
    try:
        with weights.open("rb") as file:
            start = file.read(9)
        size = weights.stat().st_size
    except OSError as error:
        raise CheckpointError(f"cannot read {weights}: {error}") from error
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < size:
        return False
    return weights.suffix in _PICKLE_SUFFIXES or start.startswith(_PICKLE_STARTS)


def _embedded_config(weights: Path) -> str:
    with open_weights(weights) as file:
        config: str | None = (file.metadata() or {}).get(CONFIG_KEY)
    if config is None:
        raise CheckpointError(
            f"{weights} has no model configuration in its metadata; "
            "load a state dict of your own into its model (load_state_dict), and write that by "
            "hsm_models.save_checkpoint; an author's weights are converted by `hsm-export import`"
        )
    return config


class _Undrawn(TorchFunctionMode):
    """Leaves out random weights: for tensors without memory PyTorch would load its compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.normal_, Tensor.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _check_names_and_shapes(
    config: ModelConfig, shapes: dict[str, tuple[int, ...]], where: str
) -> LanguageModel | SequenceClassifier:
    """Return the model without memory for its weights, after comparing their names and shapes with the given ones."""
    if len(config.layers) > len(shapes):
        raise CheckpointError(f"{where}: the configuration has {len(config.layers)} layers, the file fewer tensors")
    try:
        with torch.device("meta"), _Undrawn():
            model = build_model(config)
    except (RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{where}: the configuration asks for impossible sizes: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"{name} is missing" for name in expected if name not in shapes]
    problems += [f"{name} is unknown" for name in sorted(shapes) if name not in expected]
    problems += [
        f"{name} has shape {list(shapes[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and _without_ones(shapes[name]) != _without_ones(shape)
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(f"{where}: the weights contradict the configuration: {shown}")
    return model


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leave out axes of one element: earlier versions stored an expert's matrices with one for its only head."""
    return tuple(size for size in shape if size != 1)


def _read_tensor(file: Any, name: str, where: Path) -> Tensor:
    tensor: Tensor = file.get_tensor(name)
    if tensor.dtype not in _FLOAT_DTYPES:
        raise CheckpointError(f"{where}: {name} has type {tensor.dtype}; weights must be floating point")
    return tensor


def _load_tensor(file: Any, name: str, where: Path) -> Tensor:
    tensor = _read_tensor(file, name, where)
    _check_values(name, tensor, str(where))
    return tensor.to(torch.float32)


def _check_values(name: str, tensor: Tensor, where: str) -> None:
    """Refuse weights that hold NaN or infinity, also after conversion to float32."""
    extremes = torch.stack(torch.aminmax(tensor.reshape(-1)))  # NaN wins over every number; no copy of the weight
    if not torch.isfinite(extremes.to(torch.float32)).all():
        raise CheckpointError(f"{where}: the weight {name} holds NaN or infinite values")


def _write(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its target and rename it into place, so that no one ever sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        part.chmod(0o666 & ~_umask())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
