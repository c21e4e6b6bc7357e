"""Model configurations for Triton Inference Server (its message `inference.ModelConfig`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..dtypes import ELEMENT_TYPES
from ..errors import UsageError
from ..formats.bundle_manifest import EngineEntry
from ..formats.state_spec import StateSpec
from ..formats.tensor import Tensor
from ..onnx_model.model_file import FileFacts
from .protobuf_text import Enum

_TYPES = {item.name: item.triton for item in ELEMENT_TYPES if item.triton}
# Requests wait so long for others to share a batch with, in microseconds: little beside any model's own time.
_QUEUE_DELAY = 500
# A sequence that stands still so long is given up, in microseconds; Triton's own second is too short for a reader.
_IDLE = 60_000_000

Config = dict[str, Any]


def onnx_config(
    name: str, source: FileFacts, state: StateSpec | None, max_batch: int, libraries: Sequence[str], file: str
) -> Config:
    """Return the configuration of an ONNX file on the ONNX Runtime back end, on the CPU.

    Args:
        name: the model's name in the repository.
        source: the ONNX file.
        state: what a sequence carries from call to call; None for a file that reads whole sequences.
        max_batch: rows that may be run at a time.
        libraries: the custom-op libraries as the server finds them.
        file: the model's file name in its version's folder.

    Raises:
        UsageError: Triton cannot keep the state, see `_sequences`.
    """
    return {
        **_common(name, "onnxruntime", source, state, max_batch),
        "default_model_filename": file,
        "instance_group": [{"count": 1, "kind": Enum("KIND_CPU")}],
        "model_operations": {"op_library_filename": list(libraries)} if libraries else None,
    }


def engine_config(
    name: str, source: FileFacts, state: StateSpec | None, max_batch: int, engines: Mapping[str, EngineEntry]
) -> Config:
    """Return the configuration of engines on the TensorRT back end; the server takes that of its GPU.

    Args:
        name, source, state, max_batch: as for `onnx_config`.
        engines: the engines of one ONNX file, by file name in the version's folder.

    Raises:
        UsageError: Triton cannot keep the state, or two engines are for the same GPU.
    """
    first = next(iter(engines.values()))
    batch = _batch_dimension(source)
    limits = [profile[batch].max for entry in engines.values() for profile in entry.profiles if batch in profile]
    profiles = [str(index) for index in range(len(first.profiles))] if len(first.profiles) > 1 else []
    return {
        **_common(name, "tensorrt", source, state, min([max_batch, *limits])),
        "default_model_filename": next(iter(engines)),
        "cc_model_filenames": _by_capability(engines),
        "instance_group": [{"count": 1, "kind": Enum("KIND_GPU"), "profile": profiles}],
    }


def _common(name: str, backend: str, source: FileFacts, state: StateSpec | None, max_batch: int) -> Config:
    batch = _batch_dimension(source)
    past = {tensor.past for tensor in state.tensors} if state else set()
    present = {tensor.present for tensor in state.tensors} if state else set()
    config: Config = {
        "name": name,
        "backend": backend,
        "max_batch_size": max_batch if batch else 0,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_tensor(tensor, batch) for tensor in source.inputs if tensor.name not in past],
        "output": [_tensor(tensor, batch) for tensor in source.outputs if tensor.name not in present],
    }
    if state is not None:
        config["sequence_batching"] = _sequences(source, state, max_batch)
    elif batch:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": _QUEUE_DELAY}
    return config


def _batch_dimension(source: FileFacts) -> str:
    """Return the name of the dimension that all tensors begin with, which Triton batches over; "" without one."""
    first = {str(tensor.shape[0]) if tensor.shape else "" for tensor in (*source.inputs, *source.outputs)}
    name = first.pop() if len(first) == 1 else ""
    return "" if name.isdecimal() else name


def _tensor(tensor: Tensor, batch: str) -> Config:
    dims = _dims(tensor.shape, batch)
    # Triton takes no empty shape: one number a row is declared as a row of one number.
    config: Config = {"name": tensor.name, "data_type": _type(tensor.dtype), "dims": dims or [1]}
    return config if dims else {**config, "reshape": {}}


def _dims(shape: Sequence[int | str], batch: str) -> list[int]:
    """Return a shape as Triton writes it: without the batch, -1 for what is dynamic."""
    own = shape[1:] if batch else shape
    return [size if isinstance(size, int) else -1 for size in own]


def _type(dtype: str) -> Enum:
    if dtype not in _TYPES:
        raise UsageError(f"Triton has no type for {dtype}")
    return Enum(_TYPES[dtype])


def _sequences(source: FileFacts, state: StateSpec, max_batch: int) -> Config:
    """Return how sequences are scheduled: their states stay in the server, and begin as zeros.

    "Oldest first" puts only rows into a batch that have a request, so no row ever stands still in one.
    """
    if state.needs_capacity:
        raise UsageError(
            f"{source.path} leaves the states' capacity to the host, and Triton needs fixed sizes",
            "export it with `hsm-export export --decode --capacity N`",
        )
    if not _batch_dimension(source):
        raise UsageError(f"{source.path} has a fixed batch, and Triton schedules sequences as rows of one")
    return {
        "max_sequence_idle_microseconds": _IDLE,
        "oldest": {"max_candidate_sequences": 4 * max_batch, "max_queue_delay_microseconds": _QUEUE_DELAY},
        "state": [
            {
                "input_name": tensor.past,
                "output_name": tensor.present,
                "data_type": _type(tensor.dtype),
                "dims": list(tensor.shape[1:]),
                "initial_state": [
                    {
                        "name": f"{tensor.name}.zero",
                        "data_type": _type(tensor.dtype),
                        "dims": list(tensor.shape[1:]),
                        "zero_data": True,
                    }
                ],
            }
            for tensor in state.tensors
        ],
    }


def _by_capability(engines: Mapping[str, EngineEntry]) -> list[Config]:
    """Return the map from compute capabilities, such as "8.6", to engines."""
    found: dict[str, str] = {}
    for file, entry in engines.items():
        for architecture in entry.architectures:
            if architecture.endswith("+"):
                continue  # any GPU that has no engine of its own takes the default file
            digits = architecture.removeprefix("sm")
            other = found.setdefault(f"{digits[:-1]}.{digits[-1]}", file)
            if other != file:
                raise UsageError(f"{other} and {file} are both for {architecture}", "leave one of them out")
    return [{"key": capability, "value": file} for capability, file in found.items()]
