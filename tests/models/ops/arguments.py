"""Random arguments for each operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hsm_models import ops
from hsm_operators.precision import accumulator
from tests import oracles

Array = npt.NDArray[Any]

NAMES = tuple(oracles.__all__)


def arguments(
    name: str,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    length: int = 6,
    heads: int = 2,
    width: int = 3,
) -> dict[str, Any]:
    """Return arguments by name: D = 6 channels, rows of unequal length, and a state that five tokens left behind.

    TaylorShift's values have two channels more than its queries and keys.
    """

    def random(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(kind)

    position = torch.arange(batch) * 7 + 2
    lengths = length - torch.arange(batch) % length
    wide = accumulator(dtype)
    if "shift" in name and "taylor" not in name:
        found: dict[str, Any] = {"x": random(batch, length, 6)}
        if name.startswith("shift_mix"):
            found |= {"alpha": random(6), "beta": random(6)}
        if name.endswith("cached"):
            ring = {"ring": random(batch, 9, 6), "position": position, "lengths": lengths}
            return found | ring | {"shifts": [0, 8, 3]}
        return found | {"shifts": [-2, 8, 0]}
    if "taylor" in name:
        found = {part: random(batch, length, heads, width) for part in "qk"}
        found |= {"v": random(batch, length, heads, width + 2), "temperature": random(heads)}
        if name == "causal_taylor_shift":
            found |= {"state": random(batch, heads, ops.feature_count(width), width + 2, kind=wide)}
            found |= {"norm": random(batch, heads, ops.feature_count(width), kind=wide) / 9}
            found["norm"][..., 0] = 9
        if name != "taylor_shift":
            found["lengths"] = lengths
        flags = {"normalize": True, "output_norm": True}
        return found | (flags if name != "causal_taylor_shift" else {"normalize": True})
    if name.startswith("decayed"):
        found = {part: random(batch, length, heads, width) for part in "qk"}
        found |= {"v": random(batch, length, heads, width + 2), "log_decay": -random(batch, length, heads, width).abs()}
        if name == "decayed_delta_rule":
            found |= {part: random(batch, length, heads, width) / (2 * width) for part in "ab"}
        found |= {"state": random(batch, heads, width, width + 2, kind=wide), "lengths": lengths}
        return found | ({"exclusive": True} if name == "decayed_linear_attention" else {})
    inner, outer = (6, width) if name == "expert_matmul" else (width, 6)
    x = random(batch, length, 6) if name == "expert_matmul" else random(batch, length, heads, width)
    logits, weight = random(batch, length, heads, 4, kind=wide), random(heads, 4, inner, outer)
    return {"x": x, "logits": logits, "weight": weight, "k": 2}


def as_arrays(found: dict[str, Any]) -> dict[str, Any]:
    """Return the same arguments for an oracle."""
    return {key: _array(value) if isinstance(value, Tensor) else value for key, value in found.items()}


def _array(value: Tensor) -> Array:
    return np.asarray((value.double() if value.is_floating_point() else value).detach())


def as_tuple(result: Any) -> tuple[Any, ...]:
    """Return one or several results as a tuple."""
    return result if isinstance(result, tuple) else (result,)


def overloaded(name: str, found: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """Return the torch.library operator and its positional arguments."""
    form = ("auto",) if name in ("taylor_shift", "taylor_shift_masked") else ()
    return getattr(torch.ops.hsm, name).default, (*found.values(), *form)
