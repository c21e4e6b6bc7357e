"""Run an engine on NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .compiling import Log, RefusedError, Trt
from .device import Device

Array = Any  # np.ndarray; NumPy's generics say nothing here

_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT64": np.int64,
    "INT32": np.int32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


class EngineRunner:
    """A deserialised engine with an execution context.

    The plugins that it needs must be registered before (`compiling.load_plugins`), unless the engine holds them.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        engine: the engine's file.
        device: the GPU.
        log: receives TensorRT's messages.

    Raises:
        RefusedError: this TensorRT or this GPU does not take the engine.
    """

    def __init__(self, trt: Trt, engine: Path, device: Device, log: Log) -> None:
        self._trt, self._device = trt, device
        self._runtime = trt.Runtime(log.logger(trt))
        # Version-compatible engines hold a runtime of their own, and perhaps our plugins.
        self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        if self._engine is None:
            raise RefusedError(f"{engine.name} cannot be loaded: {log.first_error or 'TensorRT does not say why'}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RefusedError(
                f"{engine.name} cannot be run: {log.first_error or 'TensorRT does not say why'}", "memory"
            )
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self.inputs = tuple(name for name in names if modes[name] == trt.TensorIOMode.INPUT)
        self.outputs = tuple(name for name in names if modes[name] == trt.TensorIOMode.OUTPUT)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run the engine once; arrays are cast to the types that it binds, bfloat16 results widened to float32.

        Raises:
            RefusedError: no profile takes these shapes, or the run failed.
        """
        self._choose_profile(feed)
        held: list[int] = []
        keep: list[Array] = []
        try:
            for name in self.inputs:
                array = np.ascontiguousarray(_narrow(feed[name], self._type(name)))
                keep.append(array)
                self._bind_input(name, array, held)
            results = {name: self._bind_output(name, held) for name in self.outputs}
            if not self._context.execute_async_v3(self._device.stream):
                raise RefusedError("TensorRT could not start the engine")
            for address, array in results.values():
                self._device.download(address, array)
        finally:
            for address in held:
                self._device.free(address)
        return {name: _widen(array, self._type(name)) for name, (_, array) in results.items()}

    def _choose_profile(self, feed: Mapping[str, Array]) -> None:
        for index in range(self._engine.num_optimization_profiles):
            if all(self._fits(name, np.shape(feed[name]), index) for name in self.inputs):
                self._context.set_optimization_profile_async(index, self._device.stream)
                self._device.wait()
                return
        shapes = ", ".join(f"{name} {np.shape(feed[name])}" for name in self.inputs)
        raise RefusedError(f"no profile of the engine takes the shapes {shapes}")

    def _fits(self, name: str, shape: tuple[int, ...], profile: int) -> bool:
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, profile)
        return len(smallest) == len(shape) and all(
            low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
        )

    def _bind_input(self, name: str, array: Array, held: list[int]) -> None:
        if not self._context.set_input_shape(name, array.shape):
            raise RefusedError(f"the engine does not take the shape {array.shape} of input {name}")
        if self._engine.is_shape_inference_io(name):
            self._context.set_tensor_address(name, array.ctypes.data)
            return
        held.append(self._device.upload(array))
        self._context.set_tensor_address(name, held[-1])

    def _bind_output(self, name: str, held: list[int]) -> tuple[int, Array]:
        array = np.empty(tuple(self._context.get_tensor_shape(name)), _TYPES.get(self._type(name), np.uint16))
        held.append(self._device.allocate(array.nbytes))
        self._context.set_tensor_address(name, held[-1])
        return held[-1], array

    def _type(self, name: str) -> str:
        kind: str = self._engine.get_tensor_dtype(name).name
        if kind not in _TYPES and kind != "BF16":
            raise RefusedError(f"tensor {name} has type {kind}, which is not known here")
        return kind


def _narrow(array: Array, kind: str) -> Array:
    """Cast to the engine's type; bfloat16 is rounded to the nearest, ties to even, and held as its bits."""
    if kind != "BF16":
        return np.asarray(array).astype(_TYPES[kind], copy=False)
    bits = np.asarray(array, np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
    return np.where(np.isnan(np.asarray(array, np.float32)), 0x7FC0, rounded).astype(np.uint16)


def _widen(array: Array, kind: str) -> Array:
    return (array.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else array
