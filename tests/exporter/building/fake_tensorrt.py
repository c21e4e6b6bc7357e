"""A stand-in for the Python package `tensorrt` and for the NVIDIA driver, for machines without a GPU.

It takes the calls that the real ones take, and is as strict as they are where that matters: the parser prefers a
function body to a plugin without a word, an input must fit a profile, and an engine runs on "device" memory only. An
engine is the ONNX network itself, which ONNX Runtime runs from the function bodies.
"""

from __future__ import annotations

import ctypes
import enum
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

from hsm_operators import OPERATORS, functions_for, inline

_NAMES = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.BFLOAT16: "BF16"}
_NAMES |= {onnx.TensorProto.INT64: "INT64", onnx.TensorProto.BOOL: "BOOL"}


def members(name: str, *values: str) -> Any:
    return enum.IntEnum(name, list(values), start=0)


class Driver:
    """libcuda with one GPU whose memory is the host's.

    Args:
        broken: name of a function that reports error 2, out of memory.
    """

    def __init__(self, broken: str = "") -> None:
        self.memory: dict[int, Any] = {}
        self.broken = broken

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 2 if name == self.broken else self._call(name, arguments)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "cuMemAlloc_v2":
            buffer = ctypes.create_string_buffer(b"\xff" * arguments[1].value, arguments[1].value)
            arguments[0]._obj.value = ctypes.addressof(buffer)
            self.memory[ctypes.addressof(buffer)] = buffer
        elif name == "cuMemFree_v2":
            del self.memory[arguments[0].value]
        elif name in ("cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2"):
            target, source = (getattr(item, "value", item) for item in arguments[:2])
            ctypes.memmove(target, source, arguments[2].value)
        elif name == "cuDeviceGetName":
            arguments[0].value = b"Imaginary GPU"
        elif name == "cuDeviceGetAttribute":
            arguments[0]._obj.value = {75: 8, 76: 9}[arguments[1]]
        return 0


class Registry:
    """The plugin registry: a library whose file says "plugins" brings them all."""

    def __init__(self) -> None:
        self.all_creators: list[Any] = []
        self.loaded: list[str] = []

    def load_library(self, path: str) -> object:
        if Path(path).read_bytes() != b"plugins":
            raise RuntimeError(f"cannot open {path}")
        self.loaded.append(path)
        self.all_creators += [SimpleNamespace(name=name, plugin_namespace="hsm") for name in OPERATORS]
        return object()


class FakeTensorRT:
    """The module.

    Args:
        ignores: an operator that the parser does not make a plugin layer of.
        error: added to every number that an engine computes.
    """

    __version__ = "10.99.0"
    ComputeCapability = members("ComputeCapability", "SM86", "SM89")
    LayerType = members("LayerType", "ACTIVATION", "PLUGIN_V3")
    NetworkDefinitionCreationFlag = members("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH", "STRONGLY_TYPED")
    BuilderFlag = members("BuilderFlag", "TF32", "REFIT", "STRIP_PLAN", "WEIGHT_STREAMING", "VERSION_COMPATIBLE")
    HardwareCompatibilityLevel = members("HardwareCompatibilityLevel", "NONE", "AMPERE_PLUS")
    ProfilingVerbosity = members("ProfilingVerbosity", "LAYER_NAMES_ONLY", "DETAILED")
    TensorIOMode = members("TensorIOMode", "INPUT", "OUTPUT")

    class ILogger:
        pass

    def __init__(self, ignores: str = "", error: float = 0.0) -> None:
        self.registry = Registry()
        self.ignores, self.error = ignores, error
        self.configs: list[Config] = []

    def get_plugin_registry(self) -> Registry:
        return self.registry

    def Builder(self, logger: Any) -> Builder:
        return Builder(self, logger)

    def OnnxParser(self, network: Network, _logger: Any) -> Parser:
        return Parser(self, network)

    def Runtime(self, _logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda data: Engine(self, data))


class Network:
    def __init__(self) -> None:
        self.layers: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.data: dict[str, Any] = {}

    num_layers = property(lambda self: len(self.layers))
    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_layer(self, index: int) -> Any:
        return self.layers[index]

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_output(self, index: int) -> Any:
        return self.outputs[index]


class Parser:
    def __init__(self, trt: FakeTensorRT, network: Network) -> None:
        self._trt, self._network = trt, network
        self._errors: list[Any] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse(self, data: bytes, location: str) -> bool:
        model = onnx.load_from_string(data)
        bodies = {function.name for function in model.functions}
        known = {creator.name for creator in self._trt.registry.all_creators}
        for node in model.graph.node:
            plugin = node.domain == "hsm" and node.op_type not in bodies and node.op_type != self._trt.ignores
            if plugin and node.op_type not in known:
                self._errors.append(_parser_error(node))
            kind = self._trt.LayerType.PLUGIN_V3 if plugin else self._trt.LayerType.ACTIVATION
            self._network.layers.append(SimpleNamespace(name=node.name, type=kind))
        self._network.inputs = [_tensor(value) for value in model.graph.input]
        self._network.outputs = [_tensor(value) for value in model.graph.output]
        self._network.data = {"network": data.hex(), "location": location}
        return not self._errors


def _parser_error(node: onnx.NodeProto) -> Any:
    return SimpleNamespace(
        node_name=lambda: node.name,
        node=lambda: 0,
        node_operator=lambda: node.op_type,
        desc=lambda: "Plugin not found, are the plugin name, version, and namespace correct?",
    )


def _tensor(value: onnx.ValueInfoProto) -> Any:
    return SimpleNamespace(name=value.name, dtype=SimpleNamespace(name=_NAMES[value.type.tensor_type.elem_type]))


class Config:
    def __init__(self) -> None:
        self.flags: set[str] = {"TF32"}
        self.profiles: list[dict[str, Any]] = []
        self.capabilities: dict[int, str] = {}
        self.cache: bytes | None = None
        self.plugins_to_serialize: list[str] = []

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def set_compute_capability(self, capability: Any, index: int) -> None:
        self.capabilities[index] = capability.name

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, _ignore_mismatch: bool) -> bool:
        self.cache = cache + b"+measured"
        return not cache.startswith(b"other GPU")

    def get_timing_cache(self) -> Any:
        data = self.cache
        return SimpleNamespace(serialize=lambda: data) if data is not None else None


class Builder:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    def create_network(self, _flags: int) -> Network:
        return Network()

    def create_builder_config(self) -> Config:
        self._trt.configs.append(Config())
        return self._trt.configs[-1]

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(shapes=shapes, set_shape=lambda name, *sizes: shapes.update({name: sizes}))

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        self._logger.log(SimpleNamespace(name="WARNING"), "imaginary warning")
        if "WEIGHT_STREAMING" in config.flags:
            self._logger.log(SimpleNamespace(name="ERROR"), "no streaming here")
            return None
        return json.dumps({**network.data, "profiles": config.profiles}).encode()


class Engine:
    """An engine, and its own execution context."""

    def __init__(self, trt: FakeTensorRT, data: bytes) -> None:
        content = json.loads(data)
        model = onnx.load_from_string(bytes.fromhex(content["network"]))
        if not model.functions and any(item.domain == "hsm" for item in model.opset_import):
            model.functions.extend(functions_for(model))
        self._trt, self._profiles = trt, content["profiles"]
        self._session = _session(inline(model), content["location"])
        self._types = {value.name: _tensor(value).dtype for value in (*model.graph.input, *model.graph.output)}
        self._inputs = [value.name for value in model.graph.input]
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._results: dict[str, Any] = {}
        self.profile: int | None = None

    num_io_tensors = property(lambda self: len(self._types))
    num_optimization_profiles = property(lambda self: max(len(self._profiles), 1))

    def create_execution_context(self) -> Engine:
        return self

    def get_tensor_name(self, index: int) -> str:
        return list(self._types)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._trt.TensorIOMode.INPUT if name in self._inputs else self._trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._types[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self._profiles[profile][name]

    def is_shape_inference_io(self, _name: str) -> bool:
        return False

    def set_optimization_profile_async(self, index: int, _stream: int) -> bool:
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self.get_tensor_profile_shape(name, self.profile or 0)
        self._shapes[name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        feed = {item: self._read(item) for item in self._inputs}
        values = self._session.run(None, feed)
        self._results = {value.name: result for value, result in zip(self._session.get_outputs(), values, strict=True)}
        return tuple(self._results[name].shape)

    def execute_async_v3(self, _stream: int) -> bool:
        for name, result in self._results.items():
            data = np.ascontiguousarray(result + result.dtype.type(self._trt.error))
            ctypes.memmove(self._addresses[name], data.ctypes.data, data.nbytes)
        return True

    def _read(self, name: str) -> Any:
        dtype = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "BOOL": np.bool_}[self._types[name].name]
        count = int(np.prod(self._shapes[name])) * np.dtype(dtype).itemsize
        return np.frombuffer(ctypes.string_at(self._addresses[name], count), dtype).reshape(self._shapes[name])


def _session(model: onnx.ModelProto, location: str) -> Any:
    from hsm_export.runtimes.session import cpu_session

    return cpu_session(model, Path(location).parent)
