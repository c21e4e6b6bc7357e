"""States on disk: one .safetensors file with the arrays, the positions and the description of the state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BadInputError, UsageError
from ..files import atomic_path, require_file

if TYPE_CHECKING:
    from .state_spec import State, StateSpec, TensorSpec

_POSITION = "position"
_SPEC = "state"


def save(spec: StateSpec, path: str | Path, state: State, position: ArrayLike) -> None:
    """Write a state; see `StateSpec.save`."""
    from safetensors.numpy import save_file

    positions = np.asarray(position, np.int64)
    for tensor in spec.tensors:
        reason = _contradiction(tensor, state.get(tensor.past), positions)
        if reason:
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
    for tensor in spec.tensors:
        reason = _contradiction(tensor, state.get(tensor.past), position)
        if reason:
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
