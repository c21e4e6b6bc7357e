"""Mixers and feed-forward networks as a model's configuration describes them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError, UsageError
from .configured_costs import configured_costs, memory_floats, weight_shapes
from .result import ConfigResult, Cost, MixerRow

if TYPE_CHECKING:
    from hsm_models.config import ModelConfig

_LAYER = re.compile(r"layers\.(\d+)\.(mixer|feed_forward)\.")


def part_details(part: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the kind of a mixer or feed-forward network and its fields, from its configuration as JSON data."""
    return str(part["kind"]), {name: value for name, value in part.items() if name != "kind" and value is not None}


def inspect_configuration(path: Path, lengths: Sequence[int], context: int) -> ConfigResult:
    """Describe the model that a configuration (JSON) would make, without making it.

    Raises:
        BadInputError: the file cannot be read.
        hsm_models.errors.ConfigError: it is no model configuration, or cannot be built.
    """
    from hsm_models.config import ModelConfig

    try:
        config = ModelConfig.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot read the configuration {path}: {error}", "give a model configuration") from error
    shapes = weight_shapes(config)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    chosen = allowed_lengths(config, lengths)
    work = [configured_costs(config, shapes, length, context) for length in chosen]
    rows = configured_rows(config, sizes, [rows for rows, _, _ in work])
    return ConfigResult(
        kind="configuration",
        path=path,
        bytes=path.stat().st_size,
        config=config.to_dict(),
        parameters=sum(sizes.values()),
        mixers=rows,
        costs=tuple(total for _, total, _ in work),
        context=context,
        memory_floats={length: memory_floats(config, length, context) for length in chosen},
        uncounted=work[0][2] if work else {},
    )


def allowed_lengths(config: ModelConfig, lengths: Sequence[int]) -> list[int]:
    """Return the lengths that the model's positions allow, in order; an image has only one."""
    if config.image is not None:
        return [(config.image.size // config.image.patch) ** 2 + (config.pooling != "mean")]
    limit = config.max_length if config.positions != "none" else 0
    chosen = sorted({min(length, limit) if limit else length for length in lengths})
    if not chosen or chosen[0] < 1:
        raise UsageError("lengths must be at least 1", "for example --length 256")
    return chosen


def configured_rows(
    config: ModelConfig, sizes: Mapping[str, int], work: Sequence[Mapping[str, Cost]] = ()
) -> tuple[MixerRow, ...]:
    """Return one row for each mixer and feed-forward network.

    Args:
        config: the model's configuration.
        sizes: number of elements of each weight, by name; empty where they are not known.
        work: at each length, the work of each of them.
    """
    counts: dict[str, int] = {}
    for name, size in sizes.items():
        if match := _LAYER.match(name):
            module = match.group(0).rstrip(".")
            counts[module] = counts.get(module, 0) + size
    rows = []
    for name, part in config.parts().items():
        kind, details = part_details(part.to_data())
        costs = tuple(parts[name] for parts in work)
        rows.append(MixerRow(name, kind, (), details, counts.get(name, 0), costs))
    return tuple(rows)
