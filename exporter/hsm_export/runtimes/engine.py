"""Runtimes `tensorrt` and `tensorrt-rtx`: engines built for the GPU of this machine."""

from __future__ import annotations

import json
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from ..errors import BadInputError, HsmExportError
from ..formats.profile import Range
from ..onnx_model.fusing import fusion
from ..onnx_model.metadata import recorded
from ..onnx_model.model_file import ENGINE_BINDS, ModelFile
from .gpu import gpu_architecture, no_gpu
from .metadata import graph_metadata
from .runtime import RunContext, Runtime, missing_package, no_notes

# What an engine takes at first; inputs that outgrow it have it built again.
_BATCH, _LENGTH = 16, 512
_EXTRAS = {"tensorrt": ("tensorrt", "'hsm-export[tensorrt]'"), "tensorrt-rtx": ("tensorrt_rtx", "'hsm-export[rtx]'")}

# A dimension's name, such as "length", or "length + 1" where a model puts a token in front.
_DIMENSION = re.compile(r"(\w+)(?:\s*\+\s*(\d+))?")

Sizes = dict[str, int]


class EngineRunner(BaseRunner):  # type: ignore[misc]
    """Builds an engine when it first sees inputs, and again when they outgrow it.

    Args:
        context: the run context.
        target: "tensorrt", whose engine holds our plugins, or "tensorrt-rtx", whose engine holds the function bodies.
        compile_engine: makes the engine file of an ONNX file with profiles; None builds it.
        load_engine: makes the runner of an engine file; None is Polygraphy's.
    """

    def __init__(
        self,
        context: RunContext,
        target: str,
        compile_engine: Callable[[Path, list[dict[str, Range]]], Path] | None = None,
        load_engine: Callable[[Path], Any] | None = None,
    ) -> None:
        super().__init__(name=target)
        self._context = context
        self._model = name_dimensions(context)
        self._compile = compile_engine or (lambda path, profiles: _build(path, profiles, target))
        self._load = load_engine or (lambda path: _trt_runner(path, target, context.model))
        self._sizes: Sizes = {}
        self._inner: Any = None

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        self._grow(sizes_of(self._model, feed_dict))
        types = {value.name: value.type.tensor_type.elem_type for value in self._model.graph.input}
        feed = {
            name: np.ascontiguousarray(array, onnx.helper.tensor_dtype_to_np_dtype(types[name]))
            for name, array in feed_dict.items()
        }
        outputs: OrderedDict[str, Any] = self._inner.infer(feed, check_inputs=False)
        self.inference_time = self._inner.last_inference_time()
        return outputs

    def deactivate_impl(self) -> None:
        if self._inner is not None:
            self._inner.deactivate()
        self._inner, self._sizes = None, {}

    def _grow(self, sizes: Sizes) -> None:
        """Build an engine that takes inputs of these sizes, unless the present one does."""
        if self._inner is not None and all(size <= self._sizes[name] for name, size in sizes.items()):
            return
        if self._inner is not None:
            self._inner.deactivate()
            self._inner = None
        first = _first_sizes(self._model)
        self._sizes = _consistent(
            {name: max(size, self._sizes.get(name, first.get(name, size))) for name, size in sizes.items()}
        )
        with TemporaryDirectory(prefix="hsm-engine-") as scratch:
            model = _write(self._model, self._context.folder, Path(scratch))
            profile = {name: Range(1, size, size) for name, size in self._sizes.items()}
            self._inner = self._load(self._compile(model, [profile] if profile else []))
            self._inner.activate()


def name_dimensions(context: RunContext) -> onnx.ModelProto:
    """Return the context's graph with a name for every dynamic dimension of its inputs.

    The masks of expert operators have as many rows and tokens as the logits that they restrict, or one; equal names
    tell the builder so. Types must be those that NumPy has.

    Raises:
        BadInputError: an input is bfloat16.
    """
    model = onnx.ModelProto()
    model.CopyFrom(context.model)
    shapes = {value.name: value.type.tensor_type.shape for value in model.graph.value_info}
    logits = {node.input[0]: node.input[1] for node in model.graph.node if node.op_type == "Where"}
    masks = {node.mask for node in context.routed}
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            raise BadInputError(f"input {value.name} is bfloat16, which cannot be fed from NumPy")
        like = shapes.get(logits.get(value.name, "")) if value.name in masks else None
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") or dim.dim_param:
                continue
            theirs = like.dim[axis] if like is not None and len(like.dim) > axis else None
            named = theirs.dim_param if theirs is not None else ""
            dim.dim_param = named if _DIMENSION.fullmatch(named) else f"{value.name}.{axis}"
    return model


def sizes_of(model: onnx.ModelProto, feed: Mapping[str, Any]) -> Sizes:
    """Return the largest size of every named dimension in a feed."""
    sizes: Sizes = {}
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, np.shape(feed[value.name]), strict=True):
            if dim.dim_param:
                sizes[dim.dim_param] = max(size, sizes.get(dim.dim_param, 0))
    return sizes


def _consistent(sizes: Sizes) -> Sizes:
    """Return the sizes with those of dimensions such as "length + 1" computed from the others."""
    matches = {name: _DIMENSION.fullmatch(name) for name in sizes}
    return {
        name: sizes[match[1]] + int(match[2]) if match and match[2] and match[1] in sizes else sizes[name]
        for name, match in matches.items()
    }


def _first_sizes(model: onnx.ModelProto) -> Sizes:
    """Return what the first engine takes at least: of rows, and of tokens as far as the model's positions go."""
    config = json.loads(recorded(model).get("config") or "{}")
    return {"batch": _BATCH, "length": min(_LENGTH, config.get("max_length") or _LENGTH)}


def _write(model: onnx.ModelProto, folder: Path, scratch: Path) -> Path:
    """Write a graph where an engine can be built from it, its external data beside it."""
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            copy = scratch / entry.value
            if entry.key == "location" and not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / entry.value, copy)
    path = scratch / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _build(path: Path, profiles: list[dict[str, Range]], target: str) -> Path:
    from ..building import build

    architectures = [gpu_architecture()] if target == "tensorrt-rtx" else None
    return build(path, target=target, architectures=architectures, profiles=profiles).engine


def _trt_runner(engine: Path, target: str, model: onnx.ModelProto) -> Any:
    """Return Polygraphy's runner of an engine; the first engine in a process decides between the two libraries."""
    import importlib

    from polygraphy import config

    config.USE_TENSORRT_RTX = target == "tensorrt-rtx"
    from polygraphy.backend.trt import TrtRunner
    from polygraphy.backend.trt.util import get_trt_logger

    trt = importlib.import_module(_EXTRAS[target][0])
    if target == "tensorrt":
        _load_plugins(trt, model)
    runtime = trt.Runtime(get_trt_logger())
    loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
    if loaded is None:
        raise HsmExportError(f"{target} cannot load the engine that it built", "`hsm-export build -v` shows more")
    return TrtRunner(loaded, name=target)


def _load_plugins(trt: Any, model: onnx.ModelProto) -> None:
    from ..building.network import plugin_nodes
    from ..building.portable.compiling import Log, RefusedError, Settings, load_plugins
    from ..native import tensorrt_plugin_path

    others = fusion(model, "tensorrt")
    libraries = [str(library) for library in (tensorrt_plugin_path(), *others.libraries)]
    settings = Settings("TensorRT", plugin_libraries=libraries, plugin_layers=plugin_nodes(model, others.fused))
    try:
        load_plugins(trt, settings, Log(lambda _severity, _text: None))
    except RefusedError as error:
        raise HsmExportError(str(error), error.hint) from error


def _available(target: str) -> str | None:
    """Return None when engines of this target can be built and run here, else the reason why not."""
    reason = missing_package(*_EXTRAS[target]) or no_gpu()
    if reason:
        return reason
    from ..errors import BuildRefusedError, MissingDependencyError, UsageError

    try:
        if target == "tensorrt-rtx":
            return _why_not_rtx()
        from ..native import tensorrt_plugin_path

        tensorrt_plugin_path()
    except (BuildRefusedError, MissingDependencyError, UsageError) as error:
        return error.message
    return None


def _why_not_rtx() -> str | None:
    from ..building.targets import parse_architectures

    parse_architectures([gpu_architecture()])
    if missing_package(*_EXTRAS["tensorrt"]) is None:
        return "one process can run either TensorRT or TensorRT-RTX; uninstall tensorrt to use this one"
    return None


def _refusal(file: ModelFile) -> str | None:
    """Return why no engine can bind an input or output, by its type; None where they are tensors of numbers."""
    try:
        file.require_tensors(ENGINE_BINDS, others=False)
    except BadInputError as error:
        return error.message.removeprefix(f"{file.path}: ")
    return None


def _runtime(target: str, description: str) -> Runtime:
    return Runtime(
        target,
        description,
        lambda: _available(target),
        lambda context: EngineRunner(context, target),
        notes=(lambda model: fusion(model, "tensorrt").notes) if target == "tensorrt" else no_notes,
        refuses=_refusal,
    )


TENSORRT = _runtime("tensorrt", "TensorRT engine with the plugins, built for this machine's GPU")
TENSORRT_RTX = _runtime("tensorrt-rtx", "TensorRT-RTX engine from the function bodies, built for this machine's GPU")
