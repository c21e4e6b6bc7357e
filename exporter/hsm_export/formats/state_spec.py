"""What a sequence carries from call to call: names, shapes, types and sizes of its state, and what may be done to it.

A state is a dict from the graph's input name (`past.3.ring`) to an array whose first dimension is the batch. What may
be done to a tensor follows from its properties:

* does it grow? One axis may be the capacity, the tokens that a row may reach: keys and values of full attention.
* how are tokens taken back? "position": by moving the row's position back. "slots": the same, for as many tokens as
  there are spare slots; HSM's rings and sliding windows. "snapshot": only a copy taken before helps, as with sums.
* may one buffer be input and output of a call, where the operators' own kernels run?

What lies in the slot of a token that does not exist (yet, or any more) is never used, as long as it is finite.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..dtypes import BY_NAME, BY_PRECISION
from ..errors import BadInputError, UsageError
from .document import converted, one_line, parsed

if TYPE_CHECKING:
    from hsm_models.decoding import Decodable

Array = NDArray[Any]
State = dict[str, Array]

SCHEMA_VERSION = 2
METADATA_KEY = "hsm_export.state"
DIGEST_KEY = "hsm_export.source_sha256"
BATCH: Literal["batch"] = "batch"
CAPACITY: Literal["capacity"] = "capacity"
Rollback = Literal["position", "slots", "snapshot"]
StateType = Literal["float32", "float16", "bfloat16", "float64", "int64"]
Size = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Sizes = Annotated[tuple[Size | Literal["batch", "capacity"], ...], msgspec.Meta(min_length=1)]

_WHAT, _AGAIN = "the description of the state", "export the file again"


class TensorSpec(msgspec.Struct, frozen=True):
    """One tensor of the state.

    Attributes:
        name: of the module and of what it keeps, such as "3.ring"; the graph's names are `past` and `present`.
        dtype: "float32", "float16", "bfloat16", "int64", or "float64" for PyTorch in double.
        shape: sizes; the first is "batch", that of the capacity is "capacity" where the host chooses it.
        capacity_axis: axis of `shape` that is the capacity in tokens; None for a tensor that does not grow.
        rollback: how tokens are taken back: "position", "slots" (they are axis 1) or "snapshot".
        spare: slots beyond those that are read, for "slots": so many tokens can be taken back.
        in_place: one buffer may be `past` and `present` wherever the kernels of the graph's operators run; function
            bodies and other nodes promise nothing.
    """

    name: str
    dtype: StateType
    shape: Sizes
    capacity_axis: Size | None = None
    rollback: Rollback = "snapshot"
    spare: Count = 0
    in_place: bool = False

    def __post_init__(self) -> None:
        if self.shape[:1] != (BATCH,) or BATCH in self.shape[1:] or (self.capacity_axis or 0) >= len(self.shape):
            raise ValueError(f"the tensor {self.name} has the shape {list(self.shape)}")
        fixed = all(isinstance(size, int) for axis, size in enumerate(self.shape[1:], 1) if axis != self.capacity_axis)
        if not fixed or (self.rollback == "slots" and len(self.shape) < 2):
            raise ValueError(f"the tensor {self.name} has the shape {list(self.shape)}")

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
        return BY_NAME[self.dtype].numpy

    @property
    def constant_bytes(self) -> int:
        """Bytes that a sequence takes whatever its length."""
        return self._row_bytes() if self.capacity_axis is None else 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a sequence takes for each of its tokens."""
        return 0 if self.capacity_axis is None else self._row_bytes()

    def sizes(self, batch: int, capacity: int | None = None) -> tuple[int, ...]:
        """Return the shape for so many rows, and a capacity of so many tokens where the host chooses that."""
        given = {BATCH: batch, CAPACITY: capacity or 0}
        return tuple(size if isinstance(size, int) else given[size] for size in self.shape)

    def bytes_per_sequence(self, length: int) -> int:
        """Return the bytes that a sequence of `length` tokens needs."""
        return self.constant_bytes + self.bytes_per_token * length

    def _row_bytes(self) -> int:
        """Return the bytes of one row: all of them, or those of one token where the capacity is an axis."""
        sizes = (int(size) for axis, size in enumerate(self.shape) if axis not in (0, self.capacity_axis))
        return math.prod(sizes) * BY_NAME[self.dtype].bits // 8


class StateSpec(msgspec.Struct, frozen=True):
    """The state of a decoding graph.

    Attributes:
        tensors: its tensors, in the order of the graph's inputs and outputs.
        capacity: tokens that a row may reach; None when the host chooses it, or no tensor grows.
        rollback: spare slots, in tokens, of the tensors that are taken back by slots.
        max_length: tokens that the model's absolute positions allow; 0 means any number.
        last_logits: the graph returns the logits of each row's last valid token only.
        model: SHA-256 of the model's configuration and weights; "" where that is not known.
    """

    tensors: tuple[TensorSpec, ...]
    capacity: Size | None = None
    rollback: Count = 0
    max_length: Count = 0
    last_logits: bool = False
    model: str = ""

    @staticmethod
    def of(
        model: Decodable,
        precision: str = "fp32",
        *,
        capacity: int | None = None,
        rollback: int = 0,
        last_logits: bool = False,
    ) -> StateSpec:
        """Describe the state of a PyTorch model in a precision: "fp32", "fp16", "bf16" or "fp64".

        Raises:
            UsageError: a capacity below 1 or a negative rollback.
            TypeError: a part of the model cannot decode.
        """
        _check_sizes(capacity, rollback)
        dtype = BY_PRECISION[precision].torch
        tensors = tuple(
            TensorSpec(
                name=name,
                dtype=cast(StateType, str(entry.dtype(dtype)).removeprefix("torch.")),
                shape=(BATCH, *((capacity or CAPACITY) if size is None else size for size in entry.shape)),
                capacity_axis=1 + entry.shape.index(None) if None in entry.shape else None,
                rollback=entry.rollback,
                spare=entry.spare,
            )
            for name, entry in model.state_entries(rollback).items()
        )
        if all(tensor.capacity_axis is None for tensor in tensors):
            capacity = None
        longest = int(getattr(model, "max_length", 0) or 0)
        return StateSpec(tensors, capacity, rollback, longest, last_logits)

    @property
    def needs_capacity(self) -> bool:
        """Whether the host chooses the capacity."""
        return any(CAPACITY in tensor.shape for tensor in self.tensors)

    @property
    def most_slots(self) -> int:
        """The most slots of a tensor that is taken back by slots, 0 without one: after so many tokens all are used."""
        return max((int(tensor.shape[1]) for tensor in self.tensors if tensor.rollback == "slots"), default=0)

    def longest(self, capacity: int | None = None) -> int | None:
        """Return how many tokens a row may reach with a capacity of so many tokens; None means any number."""
        return min(filter(None, (self.capacity, capacity, self.max_length)), default=None)

    def bytes_per_sequence(self, length: int) -> int:
        """Return the bytes that the state of a sequence of `length` tokens needs."""
        return sum(tensor.bytes_per_sequence(length) for tensor in self.tensors)

    def allocate(self, batch: int, capacity: int | None = None) -> State:
        """Return the state of `batch` sequences before their first token: zeros.

        Args:
            batch: rows.
            capacity: tokens that a row shall be able to reach, when the file leaves that open.

        Raises:
            UsageError: a batch below 1, no capacity where one is needed, or one that contradicts the file's.
        """
        if batch < 1:
            raise UsageError(f"a state needs at least one row, got a batch of {batch}")
        if self.capacity is not None and capacity not in (None, self.capacity):
            raise UsageError(f"the file's states hold {self.capacity} tokens, not {capacity}")
        if self.needs_capacity and (capacity is None or capacity < 1):
            raise UsageError("the states' capacity is not fixed in the file", "give the tokens that a row may reach")
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
            furthest: (B,) the furthest position that each row ever reached since it was reset: slots hold what came
                before that one. Default: `position`, which is right unless the row was taken back before.

        Raises:
            UsageError: more tokens than were read or than there are spare slots for, or a state that needs a snapshot.
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
        for tensor in self.tensors:
            if tensor.rollback == "snapshot":
                raise UsageError(
                    f"the state {tensor.name} holds no single tokens, so none can be taken back",
                    "take a snapshot before, and restore it",
                )
        for tensor in self.tensors:
            missing = int((furthest - result)[moved].max()) - tensor.spare
            if tensor.rollback == "slots" and missing > 0:
                raise UsageError(
                    f"the state {tensor.name} has spare slots to take {tensor.spare} tokens back, {missing} too few",
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

    def to_document(self) -> dict[str, Any]:
        """Return the description as JSON data; hosts in other languages need nothing else."""
        tensors = [
            {
                **msgspec.structs.asdict(tensor),
                "past": tensor.past,
                "present": tensor.present,
                "bytes": tensor.constant_bytes,
                "bytes_per_token": tensor.bytes_per_token,
            }
            for tensor in self.tensors
        ]
        return {"schema": SCHEMA_VERSION, **msgspec.structs.asdict(self), "tensors": tensors}

    def to_json(self) -> str:
        """Return the description as text for the file's metadata."""
        return json.dumps(self.to_document())

    @staticmethod
    def from_document(data: Any) -> StateSpec:
        """Read what `to_document` returned, in this version's schema or the first one.

        Raises:
            BadInputError: it is not that, or of a newer version.
        """
        version = data.get("schema", SCHEMA_VERSION) if isinstance(data, dict) else SCHEMA_VERSION
        if version not in (1, SCHEMA_VERSION) or isinstance(version, bool):
            raise BadInputError(
                f"{_WHAT} has schema version {one_line(repr(version))}; this version reads 1 and {SCHEMA_VERSION}",
                "use the version of hsm-export that wrote the file",
            )
        if version == 1:
            data = converted(data, FirstState, _WHAT, "valid", _AGAIN).upgraded()
        known = _essence(data)
        if isinstance(known, dict):
            known = {"model": "", **known}  # which earlier versions did not know
        return converted(known, StateSpec, _WHAT, "valid", _AGAIN, whole=True)

    @staticmethod
    def from_json(text: str) -> StateSpec:
        """Read what `to_json` wrote; see `from_document`."""
        return StateSpec.from_document(parsed(text, _WHAT, _AGAIN))

    @staticmethod
    def from_metadata(metadata: Mapping[str, str], where: str) -> StateSpec:
        """Read the description from the metadata (full keys) of the ONNX file that `where` names.

        Raises:
            BadInputError: the file has no state, or its description is damaged.
        """
        text = metadata.get(METADATA_KEY)
        if not text:
            raise BadInputError(f"{where} has no state to decode with", "export it with `hsm-export export --decode`")
        spec = StateSpec.from_json(text)
        return msgspec.structs.replace(spec, model=metadata.get(DIGEST_KEY) or spec.model)


class FirstTensor(msgspec.Struct, frozen=True):
    """A tensor in the first schema, which named three kinds in place of properties."""

    name: str
    dtype: StateType
    shape: Sizes
    kind: Literal["ring", "cache", "taylor"]
    spare: Count

    def upgraded(self) -> dict[str, Any]:
        """Return it in the words of this version's schema."""
        axis, rollback = {"ring": (None, "slots"), "cache": (1, "position"), "taylor": (None, "snapshot")}[self.kind]
        # That schema did not say which tensors an operator's kernel updates in place.
        properties = {"capacity_axis": axis, "rollback": rollback, "spare": self.spare, "in_place": False}
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), **properties}


class FirstState(msgspec.Struct, frozen=True):
    """The description of a state in the first schema."""

    tensors: tuple[FirstTensor, ...]
    capacity: Size | None
    rollback: Count
    max_length: Count
    last_logits: bool

    def upgraded(self) -> dict[str, Any]:
        """Return it in this version's schema."""
        return {**msgspec.structs.asdict(self), "tensors": [tensor.upgraded() for tensor in self.tensors]}


def _check_sizes(capacity: int | None, rollback: int) -> None:
    if capacity is not None and not 1 <= capacity < 2**31:
        raise UsageError(f"the capacity must be at least 1 token, got {capacity}")
    if not 0 <= rollback < 2**31:
        raise UsageError(f"the tokens to roll back must be 0 or more, got {rollback}")


def _essence(data: Any) -> Any:
    """Return the data of a description without what follows from the rest: it is there for other languages' hosts."""
    derived = ("schema", "past", "present", "bytes", "bytes_per_token")
    if isinstance(data, list):
        return [_essence(item) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        name: _essence(value) if name == "tensors" else value for name, value in data.items() if name not in derived
    }
