"""The zoo: small models that were really trained, shipped inside the package (see docs/zoo.md)."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

_NAMES = (
    "hsm-lm",
    "hsm-hybrid-lm",
    "switch-head-lm",
    "taylor-shift-lm",
    "baseline-softmax",
    "taylor-shift-digits",
    "hsm-dictionary",
)


def names() -> tuple[str, ...]:
    """Return the names of all zoo models; each is a checkpoint `zoo:NAME`."""
    return _NAMES


def path(name: str) -> Path:
    """Return the checkpoint file of a zoo model.

    Raises:
        CheckpointError: no such model, or its file is not part of this installation.
    """
    if name not in _NAMES:
        raise CheckpointError(f"the zoo has no model {name!r}; it has {', '.join(_NAMES)}")
    file = Path(__file__).parent / f"{name}.safetensors"
    if not file.is_file():
        raise CheckpointError(f"the zoo model {name!r} is not in this installation: {file.name} is missing")
    return file
