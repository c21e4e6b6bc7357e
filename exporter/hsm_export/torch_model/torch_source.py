"""The PyTorch model that a file is held against."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .user_module import copied, guarded, unwrapped

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TorchSource:
    """A PyTorch model.

    Attributes:
        name: how reports call it.
        load: returns a fresh copy in eval mode.
        fingerprint: SHA-256 of a checkpoint, or of what a factory makes; None for a module.
    """

    name: str
    load: Callable[[], nn.Module]
    fingerprint: str | None = None


def open_source(against: str | Path | nn.Module) -> TorchSource:
    """Return the source that `against` names: a checkpoint, `zoo:NAME`, `FILE.py:FACTORY`, or a module.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or hostile.
        BadInputError: the factory is missing or fails.
        UsageError: the factory is missing, or what was given is no source.
    """
    if not isinstance(against, (str, Path)):
        _require_module(against)
        module = unwrapped(against)
        return TorchSource(type(module).__name__, lambda: copied(module))
    from .module_file import is_factory, make_module

    if is_factory(against):
        made = make_module(against)
        return TorchSource(str(against), lambda: copied(made), module_sha256(made, ""))
    from hsm_models.checkpoint import fingerprint, load_checkpoint, resolve

    path = resolve(str(against))
    return TorchSource(str(against), lambda: load_checkpoint(path), fingerprint(path))


def _require_module(against: object) -> None:
    from torch import nn

    if not isinstance(against, nn.Module):
        raise UsageError(
            f"a source is a checkpoint, zoo:NAME, FILE.py:FACTORY or a module; "
            f"a {type(against).__name__} is none of them",
            "pass the module itself, not its state dict or a list",
        )


def module_sha256(module: nn.Module, config: str) -> str:
    """Hash the state dict (names, types, shapes, bytes) and the configuration."""
    import torch

    digest = hashlib.sha256(config.encode())
    with guarded(f"{type(module).__name__}.state_dict()"):
        state = module.state_dict()
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or tensor.is_quantized:
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
