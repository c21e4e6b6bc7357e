"""What a sequence carries from call to call: names, shapes, types and sizes of its state, and what may be done to it.

A state is a dict from the graph's input name (`past.3.ring`) to an array whose first dimension is the batch. Three
kinds of tensor come in it:

* "ring": the newest tokens, that of absolute position p in slot p mod R. HSM layers and sliding windows.
* "cache": every token, that of position p in slot p. Keys and values of full attention.
* "taylor": sums over all tokens. Causal TaylorShift.

What lies in a slot whose token does not exist (yet, or any more) is never used, as long as it is finite; so a sequence
is taken back by moving its position back, but sums need a snapshot.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BadInputError, UsageError

if TYPE_CHECKING:
    import torch

    from hsm_models.language_model import LanguageModel

Array = NDArray[Any]
State = dict[str, Array]

SCHEMA_VERSION = 1
METADATA_KEY = "hsm_export.state"
BATCH = "batch"
CAPACITY = "capacity"
KINDS = ("ring", "cache", "taylor")
_ITEM_SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_TYPES = {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the state.

    Attributes:
        name: "{layer}.{key}", such as "3.ring"; the graph's names are `past` and `present`.
        layer: index of the layer.
        kind: "ring", "cache" or "taylor".
        dtype: "float32", "float16", "bfloat16", or "float64" for PyTorch in double.
        shape: sizes; the first is "batch", the second of a cache whose size the host chooses is "capacity".
        spare: slots of a ring beyond those that the layer reads: so many tokens can be taken back.
    """

    name: str
    layer: int
    kind: str
    dtype: str
    shape: tuple[int | str, ...]
    spare: int = 0

    @property
    def past(self) -> str:
        """Name of the graph's input."""
        return f"past.{self.name}"

    @property
    def present(self) -> str:
        """Name of the graph's output."""
        return f"present.{self.name}"

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of its arrays; bfloat16 is that of `ml_dtypes`."""
        if self.dtype == "bfloat16":
            import ml_dtypes

            bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
            return bfloat16
        return np.dtype(self.dtype)

    @property
    def constant_bytes(self) -> int:
        """Bytes that a sequence takes whatever its length."""
        return 0 if self.kind == "cache" else self._item_bytes(self.shape[1:])

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a sequence takes for each of its tokens."""
        return self._item_bytes(self.shape[2:]) if self.kind == "cache" else 0

    def sizes(self, batch: int, capacity: int | None = None) -> tuple[int, ...]:
        """Return the shape for so many rows, and caches of so many tokens where the host chooses that."""
        given = {BATCH: batch, CAPACITY: capacity or 0}
        return tuple(size if isinstance(size, int) else given[size] for size in self.shape)

    def bytes_per_sequence(self, length: int) -> int:
        """Return the bytes that a sequence of `length` tokens needs."""
        return self.constant_bytes + self.bytes_per_token * length

    def _item_bytes(self, sizes: Sequence[int | str]) -> int:
        return math.prod(int(size) for size in sizes) * _ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class StateSpec:
    """The state of a decoding graph.

    Attributes:
        tensors: its tensors, in the order of the graph's inputs and outputs.
        capacity: tokens that the caches hold; None when the host chooses it, or there is no cache.
        rollback: tokens that rings let a host take back.
        max_length: tokens that the model's absolute positions allow; 0 means any number.
        last_logits: the graph returns the logits of each row's last valid token only.
    """

    tensors: tuple[TensorSpec, ...]
    capacity: int | None = None
    rollback: int = 0
    max_length: int = 0
    last_logits: bool = False

    @staticmethod
    def of(
        model: LanguageModel,
        precision: str = "fp32",
        *,
        capacity: int | None = None,
        rollback: int = 0,
        last_logits: bool = False,
    ) -> StateSpec:
        """Describe the state of a PyTorch model in a precision: "fp32", "fp16", "bf16" or "fp64".

        Raises:
            UsageError: a capacity below 1 or a negative rollback.
            TypeError: a mixer of the model cannot decode.
        """
        _check_sizes(capacity, rollback)
        import torch

        dtype: torch.dtype = getattr(torch, _TYPES[precision])
        tensors = tuple(
            TensorSpec(
                name=name,
                layer=int(name.partition(".")[0]),
                kind=entry.kind,
                dtype=str(entry.dtype(dtype)).removeprefix("torch."),
                shape=(BATCH, *((capacity or CAPACITY) if size is None else size for size in entry.shape)),
                spare=entry.spare,
            )
            for name, entry in model.state_entries(rollback).items()
        )
        if not any(tensor.kind == "cache" for tensor in tensors):
            capacity = None
        return StateSpec(tensors, capacity, rollback, model.config.max_length, last_logits)

    @property
    def needs_capacity(self) -> bool:
        """Whether the host chooses how many tokens the caches hold."""
        return any(CAPACITY in tensor.shape for tensor in self.tensors)

    def longest(self, capacity: int | None = None) -> int | None:
        """Return how many tokens a row may reach with caches of `capacity` tokens; None means any number."""
        return min(filter(None, (self.capacity, capacity, self.max_length)), default=None)

    def bytes_per_sequence(self, length: int) -> int:
        """Return the bytes that the state of a sequence of `length` tokens needs."""
        return sum(tensor.bytes_per_sequence(length) for tensor in self.tensors)

    def allocate(self, batch: int, capacity: int | None = None) -> State:
        """Return the state of `batch` sequences before their first token: zeros.

        Args:
            batch: rows.
            capacity: tokens that the caches shall hold, when the file leaves that open.

        Raises:
            UsageError: a batch below 1, no capacity where one is needed, or one that contradicts the file's.
        """
        if batch < 1:
            raise UsageError(f"a state needs at least one row, got a batch of {batch}")
        if self.capacity is not None and capacity not in (None, self.capacity):
            raise UsageError(f"the file's caches hold {self.capacity} tokens, not {capacity}")
        if self.needs_capacity and (capacity is None or capacity < 1):
            raise UsageError("the caches' capacity is not fixed in the file", "give the tokens that a row may reach")
        return {tensor.past: np.zeros(tensor.sizes(batch, capacity), tensor.numpy_dtype) for tensor in self.tensors}

    def reset(self, state: State, rows: ArrayLike) -> None:
        """Return rows to the state before the first token, in place; the host sets their positions to 0."""
        for array in state.values():
            array[np.asarray(rows)] = 0

    def fork(self, state: State, source: int, targets: ArrayLike) -> None:
        """Copy the state of the row `source` over that of other rows, in place; the host copies its position too."""
        for array in state.values():
            array[np.asarray(targets)] = array[source]

    def snapshot(self, state: State, rows: ArrayLike) -> State:
        """Return a copy of some rows' state, which `restore` takes."""
        return {name: array[np.asarray(rows)].copy() for name, array in state.items()}

    def restore(self, state: State, rows: ArrayLike, snapshot: State) -> None:
        """Put a snapshot back over rows, in place; the host sets their positions back too."""
        for name, array in state.items():
            array[np.asarray(rows)] = snapshot[name]

    def rolled_back(self, position: ArrayLike, tokens: ArrayLike, furthest: ArrayLike | None = None) -> Array:
        """Return the positions after taking back the last tokens of each row; the arrays stay as they are.

        Args:
            position: (B,) tokens that each row has read.
            tokens: (B,) tokens to take back, or one number for all.
            furthest: (B,) the furthest position that each row ever reached since it was reset: a ring holds what came
                before that one. Default: `position`, which is right unless the row was taken back before.

        Raises:
            UsageError: more tokens than were read or than a ring has spare slots for, or a state with running sums.
        """
        position = np.asarray(position, np.int64)
        taken = np.broadcast_to(np.asarray(tokens, np.int64), position.shape)
        if (taken < 0).any() or (taken > position).any():
            raise UsageError(f"cannot take {taken.tolist()} tokens back from rows of {position.tolist()}")
        result = position - taken
        if not taken.any():
            return result
        self._check_rollback(result, position if furthest is None else np.asarray(furthest, np.int64), taken > 0)
        return result

    def _check_rollback(self, result: Array, furthest: Array, moved: Array) -> None:
        sums = [tensor.name for tensor in self.tensors if tensor.kind == "taylor"]
        if sums:
            raise UsageError(
                f"running sums ({sums[0]}) cannot take tokens back", "take a snapshot before, and restore it"
            )
        for tensor in self.tensors:
            missing = int((furthest - result)[moved].max()) - tensor.spare
            if tensor.kind == "ring" and missing > 0:
                raise UsageError(
                    f"the ring {tensor.name} has spare slots to take {tensor.spare} tokens back, {missing} too few",
                    f"export with --rollback {tensor.spare + missing}, or take a snapshot before and restore it",
                )

    def save(self, path: str | Path, state: State, position: ArrayLike) -> None:
        """Write a state and its positions (B,) to a .safetensors file.

        Raises:
            UsageError: the arrays are not those of this state.
            BadInputError: the file cannot be written.
        """
        from .state_file import save

        save(self, path, state, position)

    def load(self, path: str | Path) -> tuple[State, Array]:
        """Read a state and its positions (B,) from a file that `save` wrote.

        Raises:
            BadInputError: the file is missing or damaged, or holds the state of another model.
        """
        from .state_file import load

        return load(self, path)

    def to_json(self, indent: int | None = None) -> str:
        """Return JSON text for the file's metadata; hosts in other languages need nothing else."""
        tensors = [
            {
                **dataclasses.asdict(tensor),
                "past": tensor.past,
                "present": tensor.present,
                "bytes": tensor.constant_bytes,
                "bytes_per_token": tensor.bytes_per_token,
            }
            for tensor in self.tensors
        ]
        return json.dumps({"schema": SCHEMA_VERSION, **dataclasses.asdict(self), "tensors": tensors}, indent=indent)

    @staticmethod
    def from_json(text: str) -> StateSpec:
        """Read what `to_json` wrote.

        Raises:
            BadInputError: it is not that, or of a newer version.
        """
        try:
            data = json.loads(text)
            version = data["schema"]
            if version == SCHEMA_VERSION:
                return StateSpec(
                    tensors=tuple(_tensor(item) for item in data["tensors"]),
                    capacity=None if data["capacity"] is None else _size(data["capacity"]),
                    rollback=_size(data["rollback"], 0),
                    max_length=_size(data["max_length"], 0),
                    last_logits=bool(data["last_logits"]),
                )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInputError(f"the description of the state is damaged: {error}", "export the file again") from error
        raise BadInputError(
            f"the description of the state has schema version {version!r}; this version reads {SCHEMA_VERSION}",
            "use the version of hsm-export that wrote the file",
        )

    @staticmethod
    def from_metadata(metadata: Mapping[str, str], where: str) -> StateSpec:
        """Read the description from the metadata (full keys) of the ONNX file that `where` names.

        Raises:
            BadInputError: the file has no state, or its description is damaged.
        """
        text = metadata.get(METADATA_KEY)
        if not text:
            raise BadInputError(f"{where} has no state to decode with", "export it with `hsm-export export --decode`")
        return StateSpec.from_json(text)


def _check_sizes(capacity: int | None, rollback: int) -> None:
    if capacity is not None and not 1 <= capacity < 2**31:
        raise UsageError(f"the capacity must be at least 1 token, got {capacity}")
    if not 0 <= rollback < 2**31:
        raise UsageError(f"the tokens to roll back must be 0 or more, got {rollback}")


def _tensor(item: Any) -> TensorSpec:
    shape = tuple(size if size in (BATCH, CAPACITY) else _size(size) for size in item["shape"])
    spec = TensorSpec(
        str(item["name"]), _size(item["layer"], 0), item["kind"], item["dtype"], shape, _size(item["spare"], 0)
    )
    fixed = shape[2:] if spec.kind == "cache" else shape[1:]
    if spec.kind not in KINDS or spec.dtype not in _ITEM_SIZES or len(shape) < 3 or shape[0] != BATCH:
        raise ValueError(f"tensor {spec.name}")
    if not all(isinstance(size, int) for size in fixed):
        raise ValueError(f"tensor {spec.name} has the shape {list(shape)}")
    return spec


def _size(value: Any, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
        raise ValueError(f"{value!r} is not a size")
    return value
