"""PyTorch checkpoints: their configuration and the sizes of their weights, without loading these."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from ..dtypes import BY_SAFETENSORS
from ..errors import BadInputError
from .configuration import configured_rows
from .result import CheckpointResult


def inspect_checkpoint(path: Path) -> CheckpointResult:
    """Describe a checkpoint file or folder.

    Raises:
        BadInputError: it has a name ending that no checkpoint has.
        hsm_models.errors.CheckpointError, ConfigError: it is damaged or contradicts itself.
    """
    from safetensors import SafetensorError, safe_open

    from hsm_models.checkpoint import fingerprint, read_config, read_metadata

    config = read_config(path)
    weights = path / "model.safetensors" if path.is_dir() else path
    sizes: dict[str, int] = {}
    stored: Counter[str] = Counter()
    try:
        with safe_open(weights, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                kind = BY_SAFETENSORS.get(part.get_dtype())
                sizes[name] = math.prod(part.get_shape())
                stored[kind.name if kind else part.get_dtype()] += sizes[name] * kind.bits // 8 if kind else 0
    except (SafetensorError, OSError) as error:
        raise BadInputError(f"{weights} is not a readable safetensors file: {error}") from error
    files = path.iterdir() if path.is_dir() else [path]
    return CheckpointResult(
        kind="checkpoint",
        path=path,
        bytes=sum(file.stat().st_size for file in files if file.is_file()),
        fingerprint=fingerprint(path),
        config=config.to_dict(),
        parameters=sum(sizes.values()),
        weight_bytes=dict(stored),
        mixers=configured_rows(config, sizes),
        metadata={name: value for name, value in read_metadata(path).items() if name != "config"},
    )
