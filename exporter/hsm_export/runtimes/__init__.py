"""Every runtime that can run an exported file, behind one interface: Polygraphy runners.

The list is open. A runtime is named by

    ort                             one of ours, or one that an installed package offers through the entry point group
                                    `hsm_export.runtimes`, or one of `register_runtime`
    ort:level=basic                 with options, each after a colon
    ort@/path/to/python             ONNX Runtime as another Python has it; so do `tract`, `iree` and the other `peers`
    my_runtime.py:Mine              a class of one's own: see `own`; with @/path/to/python, as that Python runs it

A new runtime of ours is one module that defines a `Runtime`, or a class in `peers`, and one line in `_HOMES`.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError, HsmExportError, MissingDependencyError, UsageError
from ..torch_model.module_file import is_factory, named_object, named_parts

if TYPE_CHECKING:
    from polygraphy.backend.base import BaseRunner

    from .runtime import Runtime

GROUP = "hsm_export.runtimes"
# Name of the runtime -> module and attribute; the order is the order of reports.
_HOMES = {
    "torch64": ("torch_module", "TORCH64"),
    "onnx64": ("onnx64", "ONNX64"),
    "torch": ("torch_module", "TORCH"),
    "torch-compile": ("torch_compile", "TORCH_COMPILE"),
    "onnx-reference": ("onnx_reference", "ONNX_REFERENCE"),
    "ort": ("onnx_runtime", "ORT"),
    "ort-fused": ("ort_fused", "ORT_FUSED"),
    "cpp": ("cpp", "CPP"),
    "openvino": ("peers.openvino", "OpenVINO"),
    "tract": ("peers.tract", "Tract"),
    "iree": ("peers.iree", "Iree"),
    "mnn": ("peers.mnn", "Mnn"),
    "tvm": ("peers.tvm", "Tvm"),
    "tinygrad": ("peers.tinygrad", "Tinygrad"),
    "onnxruntime-node": ("other_process", "javascript_runtime"),
    "onnxruntime-web": ("other_process", "javascript_runtime"),
    "cuda-emulated": ("ort_fused", "CUDA_EMULATED"),
    "ort-cuda": ("ort_gpu", "ORT_CUDA"),
    "ort-tensorrt": ("ort_gpu", "ORT_TENSORRT"),
    "tensorrt": ("engine", "TENSORRT"),
    "tensorrt-rtx": ("engine", "TENSORRT_RTX"),
}
_registered: dict[str, Runtime] = {}

__all__ = ["get", "is_runtime", "names", "register_runtime", "runner"]


def names() -> tuple[str, ...]:
    """Return the names of all runtimes, whether or not they work on this machine."""
    return tuple(dict.fromkeys((*_HOMES, *_offered(), *_registered)))


def get(name: str) -> Runtime:
    """Return a runtime by its name, with the options that the name states.

    Raises:
        UsageError: no runtime has that name, or it has no such options.
        BadInputError: a Python file that is named cannot be imported, or holds no runtime.
    """
    if is_factory(name):
        from .own import runtime_of

        return runtime_of(named_object(name), str(name))
    own, at, place = name.partition("@")
    if at and is_factory(own):
        from .other_process import own_runtime_elsewhere

        python, *options = place.split(":")
        return _configured(own_runtime_elsewhere(*named_parts(own), python, bool(options)), name, options)
    base, *options = name.split(":")
    return _configured(_elsewhere(base) if "@" in base else _named(base), name, options)


def is_runtime(name: str) -> bool:
    """Return whether a runtime has that name, options and all."""
    try:
        get(name)
    except HsmExportError:
        return False
    return True


def register_runtime(name: str, runtime: Runtime | Callable[[Path], Any]) -> Runtime:
    """Add a runtime to those that `validate`, `diff` and `bench` know in this process, and return it.

    Args:
        name: what it is called from now on, in place of one of that name.
        runtime: a `Runtime`, or a class of one's own (see `own`).

    Raises:
        UsageError: it is one of our names.
        BadInputError: it is no runtime.
    """
    from .own import runtime_of

    if name in _HOMES:
        raise UsageError(f"{name!r} is a runtime of hsm-export", "choose another name")
    _registered[name] = runtime_of(runtime, name)
    return _registered[name]


def runner(name: str, model: str | Path, against: Any = None) -> BaseRunner:
    """Return a runtime as a Polygraphy runner, for scripts of one's own with `Comparator.run` and its like.

    Args:
        name: the runtime's name, with options or not.
        model: the ONNX file.
        against: the checkpoint or module, for runtimes that run PyTorch.

    Raises:
        UsageError: there is no such runtime, or it needs a module that is not given.
        MissingDependencyError: it does not work on this machine.
        BadInputError: the file cannot be used.
    """
    from ..onnx_model.model_file import open_model
    from ..torch_model.torch_source import open_source
    from .runtime import RunContext

    runtime = get(name)
    if runtime.needs_source and against is None:
        raise UsageError(f"runtime {name!r} needs the PyTorch model", "pass against=")
    reason = runtime.available()
    if reason:
        raise MissingDependencyError(f"runtime {name!r} does not work here: {reason}")
    file = open_model(model)
    source = open_source(against).load if against is not None else None
    made: BaseRunner = runtime.runner(RunContext(file.model, file.path.parent, file.precision, source))
    return made


def _named(name: str) -> Runtime:
    if name in _HOMES:
        return _ours(name)
    if name not in _registered and name in _offered():
        from .own import runtime_of

        _registered[name] = runtime_of(_load(_offered()[name]), name)
    if name not in _registered:
        raise UsageError(f"there is no runtime {name!r}", f"known runtimes are {', '.join(names())}")
    return _registered[name]


def _ours(name: str, place: str | None = None) -> Runtime:
    """Return one of `_HOMES`, or as another place has it: a Python, or a folder with packages for JavaScript."""
    module, attribute = _HOMES[name]
    found: Any = getattr(importlib.import_module(f".{module}", __name__), attribute)
    if isinstance(found, type):
        from .other_process import peer_runtime

        return peer_runtime(name, found, place)
    runtime: Runtime = found(name, place) if callable(found) else found
    return runtime


def _configured(runtime: Runtime, name: str, options: list[str]) -> Runtime:
    if not options:
        return runtime
    known = ", ".join(runtime.options) or "none"
    values: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if key not in runtime.options or not equals or key in values:
            raise UsageError(
                f"runtime {name!r}: {option!r} is no option of {runtime.name}",
                f"its options are {known}, each once, as in {runtime.name}:{next(iter(runtime.options), 'key')}=…",
            )
        values[key] = value
    assert runtime.configure is not None
    return replace(runtime.configure(values), name=name)


def _elsewhere(name: str) -> Runtime:
    """Return a runtime as another place has it: "ort@/path/to/python", "onnxruntime-web@folder"."""
    base, _, place = name.partition("@")
    if base == "ort" and place:
        from .other_process import peer_runtime
        from .peers.onnxruntime import OnnxRuntime

        return peer_runtime(base, OnnxRuntime, place)
    movable = [other for other, (home, _) in _HOMES.items() if home.startswith(("peers.", "other_process"))]
    if base not in movable or not place:
        raise UsageError(
            f"there is no runtime {name!r}",
            f"ort, {', '.join(movable)} run elsewhere, as in ort@/path/to/python or onnxruntime-web@folder",
        )
    return _ours(base, place)


def _offered() -> dict[str, EntryPoint]:
    """Return what installed packages offer, by name; our own names stay ours."""
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in _HOMES}


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # a package of somebody else can fail in any way
        warnings.warn(f"the runtime {entry.value} cannot be loaded: {error}", RuntimeWarning, stacklevel=3)
        raise BadInputError(f"runtime {entry.name!r} cannot be loaded: {type(error).__name__}: {error}") from error
