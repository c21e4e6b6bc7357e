"""States on disk: one .safetensors file with the arrays, the positions and the description of the state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BadInputError, UsageError
from ..files import atomic_path, require_file

if TYPE_CHECKING:
    from .state_spec import State, StateSpec, TensorSpec

_POSITION = "position"
# What may be added to positions without leaving 63 bits is every number of tokens that fits in a memory.
_MOST_TOKENS = 2**62
_SPEC = "state"


def save(spec: StateSpec, path: str | Path, state: State, position: ArrayLike) -> None:
    """Write a state; see `StateSpec.save`."""
    from safetensors.numpy import save_file

    positions = np.asarray(position, np.int64)
    for reason in _contradictions(spec, state, positions):
        raise UsageError(f"cannot save the state: {reason}")
    arrays = {tensor.past: _storable(state[tensor.past]) for tensor in spec.tensors}
    with atomic_path(path) as scratch:
        save_file({**arrays, _POSITION: positions}, scratch, {_SPEC: spec.to_json()})


def load(spec: StateSpec, path: str | Path) -> tuple[State, NDArray[Any]]:
    """Read a state; see `StateSpec.load`."""
    from safetensors import SafetensorError, safe_open

    path = require_file(path, "the state")
    try:
        with safe_open(path, framework="numpy") as file:
            recorded = spec.from_json((file.metadata() or {}).get(_SPEC, ""))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInputError(f"{path} is not a readable state: {error}", "save it again") from error
    if _layout(recorded) != _layout(spec):
        raise BadInputError(f"{path} holds the state of another model or precision", "load it with its own file")
    if recorded.model and spec.model and recorded.model != spec.model:
        raise BadInputError(
            f"{path} was saved with other weights: those of {recorded.model[:12]}, not {spec.model[:12]}",
            "load it with the model that saved it",
        )
    position = arrays.pop(_POSITION, np.zeros(0, np.int64))
    state = {t.past: arrays[t.past].view(t.numpy_dtype) for t in spec.tensors if t.past in arrays}
    for reason in _contradictions(spec, state, position):
        raise BadInputError(f"{path} is damaged: {reason}", "save it again")
    return state, position


def _layout(spec: StateSpec) -> list[tuple[str, str, list[int | str]]]:
    """Return the tensors' names, types and shapes without the capacity: a host may load into states of another one."""
    return [
        (
            tensor.name,
            tensor.dtype,
            ["" if axis == tensor.capacity_axis else size for axis, size in enumerate(tensor.shape)],
        )
        for tensor in spec.tensors
    ]


def _contradictions(spec: StateSpec, state: State, position: NDArray[Any]) -> Iterator[str]:
    """Yield how arrays and positions contradict their description and each other."""
    most = _MOST_TOKENS
    for tensor in spec.tensors:
        array = state.get(tensor.past)
        reason = _contradiction(tensor, array, position)
        if reason:
            yield reason
        elif array is not None and tensor.capacity_axis is not None:
            most = min(most, array.shape[tensor.capacity_axis])
    if position.ndim != 1 or position.dtype != np.int64 or not position.size:
        yield f"the positions of its rows are {position.dtype} {list(position.shape)}"
    elif position.min() < 0 or position.max() > most:
        yield f"its rows have {position.tolist()} tokens, but hold 0 to {most}"


def _contradiction(tensor: TensorSpec, array: NDArray[Any] | None, position: NDArray[Any]) -> str | None:
    """Say how an array contradicts its description, None when it does not."""
    if array is None:
        return f"{tensor.past} is missing"
    expected = (position.shape[0] if position.ndim == 1 else -1, *tensor.shape[1:])
    fits = array.ndim == len(expected) and all(
        isinstance(want, str) or want == have for want, have in zip(expected, array.shape, strict=True)
    )
    if not fits or array.dtype != tensor.numpy_dtype:
        return f"{tensor.past} is {array.dtype} {list(array.shape)} instead of {tensor.dtype} {list(expected)}"
    return None


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that the file format knows: bfloat16 as its bits."""
    contiguous = np.ascontiguousarray(array)
    return contiguous.view(np.uint16) if contiguous.dtype.name == "bfloat16" else contiguous
