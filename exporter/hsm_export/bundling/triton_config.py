"""Model configurations for Triton Inference Server (its message `inference.ModelConfig`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
# Requests for text that may wait for a row, for each row that there is.
_WAITING = 64

Config = dict[str, Any]


@dataclass(frozen=True)
class Serving:
    """How a server runs the models of a repository.

    Attributes:
        max_batch: rows that may be run at a time.
        threads: threads of each model on the CPU.
        candidates: sequences that may be open at a time, for sequences whose state the server keeps; others wait.
        idle: seconds after which a sequence that stands still is given up; Triton's own second is too short for a
            reader.
        capacity: tokens that a row of the model of text must be able to reach, where the file leaves that open.
        max_tokens: new tokens of a request for text that does not say how many.
        libraries: the folder of our libraries on the server; None: they are on its library path.
    """

    max_batch: int = 8
    threads: int = 1
    candidates: int = 32
    idle: float = 60.0
    capacity: int = 4096
    max_tokens: int = 128
    libraries: str | None = None

    def on_server(self, name: str) -> str:
        """Return a library of ours as the server finds it."""
        return f"{self.libraries.rstrip('/')}/{name}" if self.libraries else name


def onnx_config(
    name: str, source: FileFacts, state: StateSpec | None, serving: Serving, libraries: Sequence[str], file: str
) -> Config:
    """Return the configuration of an ONNX file on the ONNX Runtime back end, on the CPU.

    Args:
        name: the model's name in the repository.
        source: the ONNX file.
        state: what a sequence carries from call to call; None for a file that reads whole sequences.
        serving: how it is run.
        libraries: the custom-op libraries as the server finds them.
        file: the model's file name in its version's folder.

    Raises:
        UsageError: Triton cannot keep the state, see `_sequences`.
    """
    return {
        **_common(name, "onnxruntime", source, state, serving),
        "default_model_filename": file,
        "instance_group": [{"count": 1, "kind": Enum("KIND_CPU")}],
        "model_operations": {"op_library_filename": list(libraries)} if libraries else None,
        "parameters": _parameters({"intra_op_thread_count": serving.threads, "inter_op_thread_count": 1}),
    }


def text_config(name: str, needs_capacity: bool, serving: Serving, library: str) -> Config:
    """Return the configuration of the model of text, `triton_model.py`, on the Python back end.

    Its transaction policy is decoupled: a request for a stream gets a response for each piece of text. It batches by
    itself, so that the server hands it one request after the other at once.

    Args:
        name: the model's name in the repository.
        needs_capacity: whether the decoding file leaves its capacity to the host.
        serving: how it is run.
        library: libhsm_runtime.so as the server finds it.
    """
    optional = {
        "stop_words": ("TYPE_STRING", -1),
        "max_tokens": ("TYPE_INT32", 1),
        "temperature": ("TYPE_FP32", 1),
        "top_k": ("TYPE_INT32", 1),
        "top_p": ("TYPE_FP32", 1),
        "min_p": ("TYPE_FP32", 1),
        "repetition_penalty": ("TYPE_FP32", 1),
        "presence_penalty": ("TYPE_FP32", 1),
        "frequency_penalty": ("TYPE_FP32", 1),
        "random_seed": ("TYPE_UINT64", 1),
        "timeout_ms": ("TYPE_INT64", 1),
        "stream": ("TYPE_BOOL", 1),
    }
    settings: dict[str, str | int] = {
        "library": library,
        "onnxruntime_library": "",
        "rows": serving.max_batch,
        "threads": serving.threads,
        "capacity": serving.capacity if needs_capacity else 0,
        "max_tokens": serving.max_tokens,
        "most_waiting": _WAITING * serving.max_batch,
    }
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": 0,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [
            {"name": "text_input", "data_type": Enum("TYPE_STRING"), "dims": [1]},
            *(
                {"name": given, "data_type": Enum(kind), "dims": [size], "optional": True}
                for given, (kind, size) in optional.items()
            ),
        ],
        "output": [
            {"name": text, "data_type": Enum("TYPE_STRING"), "dims": [1]} for text in ("text_output", "finish_reason")
        ],
        "instance_group": [{"count": 1, "kind": Enum("KIND_CPU")}],
        "model_transaction_policy": {"decoupled": True},
        "parameters": _parameters(settings),
    }


def warm_up(config: Config, feed: Mapping[str, NDArray[Any]]) -> tuple[list[Config], dict[str, bytes]]:
    """Return a request that the server runs before it says that it is ready, and its files.

    Sequences get none: Triton runs such requests beside its scheduler, without the states that the model needs.

    Args:
        config: the model's configuration.
        feed: the inputs of one row.
    """
    if "sequence_batching" in config:
        return [], {}
    inputs = []
    for tensor in config["input"]:
        array = feed[tensor["name"]]
        dims = tensor["dims"] if "reshape" in tensor else list(array.shape[bool(config["max_batch_size"]) :])
        sample = {"data_type": tensor["data_type"], "dims": dims, "input_data_file": tensor["name"]}
        inputs.append({"key": tensor["name"], "value": sample})
    files = {tensor["name"]: np.ascontiguousarray(feed[tensor["name"]]).tobytes() for tensor in config["input"]}
    return [{"name": "one row", "batch_size": 1, "inputs": inputs}], files


def _parameters(settings: Mapping[str, str | int]) -> list[Config]:
    return [{"key": key, "value": {"string_value": str(value)}} for key, value in settings.items()]


def engine_config(
    name: str, source: FileFacts, state: StateSpec | None, serving: Serving, engines: Mapping[str, EngineEntry]
) -> Config:
    """Return the configuration of engines on the TensorRT back end; the server takes that of its GPU.

    Args:
        name, source, state, serving: as for `onnx_config`.
        engines: the engines of one ONNX file, by file name in the version's folder.

    Raises:
        UsageError: Triton cannot keep the state, or two engines are for the same GPU.
    """
    first = next(iter(engines.values()))
    batch = _batch_dimension(source)
    limits = [profile[batch].max for entry in engines.values() for profile in entry.profiles if batch in profile]
    profiles = [str(index) for index in range(len(first.profiles))] if len(first.profiles) > 1 else []
    return {
        **_common(name, "tensorrt", source, state, replace(serving, max_batch=min([serving.max_batch, *limits]))),
        "default_model_filename": next(iter(engines)),
        "cc_model_filenames": _by_capability(engines),
        "instance_group": [{"count": 1, "kind": Enum("KIND_GPU"), "profile": profiles}],
    }


def _common(name: str, backend: str, source: FileFacts, state: StateSpec | None, serving: Serving) -> Config:
    batch = _batch_dimension(source)
    past = {tensor.past for tensor in state.tensors} if state else set()
    present = {tensor.present for tensor in state.tensors} if state else set()
    config: Config = {
        "name": name,
        "backend": backend,
        "max_batch_size": serving.max_batch if batch else 0,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_tensor(tensor, batch) for tensor in source.inputs if tensor.name not in past],
        "output": [_tensor(tensor, batch) for tensor in source.outputs if tensor.name not in present],
    }
    if state is not None:
        config["sequence_batching"] = _sequences(source, state, serving)
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


def _sequences(source: FileFacts, state: StateSpec, serving: Serving) -> Config:
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
        "max_sequence_idle_microseconds": round(serving.idle * 1e6),
        "oldest": {"max_candidate_sequences": serving.candidates, "max_queue_delay_microseconds": _QUEUE_DELAY},
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
