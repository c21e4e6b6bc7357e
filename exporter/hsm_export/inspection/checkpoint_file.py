"""PyTorch checkpoints: their configuration and the sizes of their weights, without loading these."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..dtypes import BY_SAFETENSORS
from .configuration import allowed_lengths, configured_rows
from .configured_costs import configured_costs, weight_shapes
from .result import CheckpointResult


def inspect_checkpoint(path: Path, lengths: Sequence[int], context: int = 0) -> CheckpointResult:
    """Describe a checkpoint file or folder, and count its work at some lengths.

    Raises:
        hsm_models.errors.CheckpointError, ConfigError: it is damaged or contradicts itself.
    """
    from hsm_models.checkpoint import fingerprint, read_config, read_metadata
    from hsm_models.shards import open_weights

    config = read_config(path)
    sizes: dict[str, int] = {}
    stored: Counter[str] = Counter()
    with open_weights(path, "numpy") as file:
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            kind = BY_SAFETENSORS.get(part.get_dtype())
            sizes[name] = math.prod(part.get_shape())
            stored[kind.name if kind else part.get_dtype()] += sizes[name] * kind.bits // 8 if kind else 0
    shapes = weight_shapes(config)
    work = [configured_costs(config, shapes, length, context) for length in allowed_lengths(config, lengths)]
    files = path.iterdir() if path.is_dir() else [path]
    return CheckpointResult(
        kind="checkpoint",
        path=path,
        bytes=sum(file.stat().st_size for file in files if file.is_file()),
        fingerprint=fingerprint(path),
        config=config.to_dict(),
        parameters=sum(sizes.values()),
        weight_bytes=dict(stored),
        mixers=configured_rows(config, sizes, [rows for rows, _, _ in work]),
        metadata={name: value for name, value in read_metadata(path).items() if name != "config"},
        costs=tuple(total for _, total, _ in work),
        uncounted=work[0][2],
    )
