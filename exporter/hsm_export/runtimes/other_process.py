"""Runtimes that run in a process of their own: `tract`, `ort@/path/to/python`, `mine.py:Mine@/path/to/python`.

Native code of others may crash, needs packages that this Python lacks, or comes with libraries that clash with ours.
The other Python needs the runtime's package and NumPy, and nothing of ours: `peers/serving.py` runs there.
"""

from __future__ import annotations

import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from ..child_process import ChildProcess, ProcessEndedError
from ..dtypes import BY_NAME
from ..errors import BadInputError, HsmExportError
from ..onnx_model.bfloat16 import runnable
from .metadata import graph_metadata, typed_feed
from .own import write_whole
from .peers.serving import describe
from .portable_model import portable_model, static_model, with_weights
from .runtime import RunContext, Runtime
from .session import thread_count

_FOLDER = Path(__file__).with_name("peers")
# Seconds that a process may take to say what it is.
_START = 120.0


@dataclass(frozen=True)
class Place:
    """Where a runtime's class is, and who runs it.

    Attributes:
        name: the runtime's name, place included, such as "tract@env/bin/python".
        command: the program that serves it.
        options: what its name stated.
    """

    name: str
    command: tuple[str | Path, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> ChildProcess:
        """Start the process.

        Raises:
            MissingDependencyError: it cannot be started.
        """
        threads = {"OMP_NUM_THREADS": str(thread_count()), "TVM_NUM_THREADS": str(thread_count())}
        return ChildProcess(self.name, self.command, {**threads, "ORT_DISABLE_TELEMETRY": "1"})

    def described(self) -> Mapping[str, Any]:
        """Return what the class says of itself there (see `peers/serving.py`).

        Raises:
            HsmExportError: the process cannot be started, or fails.
        """
        with self.start() as child:
            found: Mapping[str, Any] = child.ask("describe", timeout=_START)
        return found

    def problem(self) -> str | None:
        """Return why it does not work there."""
        try:
            problem = self.described()["problem"]
        except HsmExportError as error:
            return error.message
        return problem and f"{self.command[0]}: {problem}"


class OtherProcessRunner(BaseRunner):  # type: ignore[misc]
    """Runs a file in a process that serves a runtime.

    Args:
        context: the run context whose graph inputs are fed.
        place: the runtime.
    """

    def __init__(self, context: RunContext, place: Place) -> None:
        super().__init__(name=place.name)
        self._context = context
        self._place = place
        self._sizes: dict[str, tuple[int, ...]] | None = None

    @property
    def pid(self) -> int:
        """Number of the process that runs the model."""
        return self._child.pid

    def activate_impl(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="hsm-runtime-")
        try:
            self._child = self._place.start()
        except BaseException:
            self._scratch.cleanup()
            raise
        try:
            said = self._child.ask("describe", timeout=_START)
            if said["problem"]:
                raise BadInputError(f"{self.name} does not work: {said['problem']}")
            self._static = said["static"]
            if said["functions"]:
                self._model = with_weights(runnable(self._context.model, self._context.precision), self._context.folder)
            else:
                self._model = portable_model(self._context.model, self._context.folder)
            self._sizes = None
            if not self._static:
                self._load(self._model)
        except BaseException:
            self.deactivate_impl()
            raise

    def deactivate_impl(self) -> None:
        self._child.stop()
        self._scratch.cleanup()

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        from safetensors.numpy import load_file, save_file

        feed = typed_feed(self._model, feed_dict)
        if unknown := sorted(name for name, array in feed.items() if array.dtype == BY_NAME["bfloat16"].numpy):
            raise BadInputError(f"{self.name} cannot be given {', '.join(unknown)}: NumPy has no bfloat16")
        sizes = {name: array.shape for name, array in feed.items()}
        if self._static and sizes != self._sizes:
            self._load(static_model(self._model, sizes))
            self._sizes = sizes
        inputs, outputs = self._folder / "inputs.safetensors", self._folder / "outputs.safetensors"
        order = [value.name for value in self._model.graph.input if value.name in feed]
        names = [value.name for value in self._context.model.graph.output]
        save_file({name: np.array(feed[name], order="C") for name in order}, inputs)
        job = {"inputs": str(inputs), "order": order, "outputs": str(outputs), "names": names}
        self.inference_time = float(self._ask("run", job))
        found = load_file(outputs)
        return OrderedDict((name, found[name]) for name in names)

    def _load(self, model: onnx.ModelProto) -> None:
        path = self._folder / "model.onnx"
        write_whole(model, path)
        remarks: Sequence[str] = self._ask("load", {"model": str(path), "options": dict(self._place.options)})
        self._context.remarks.update(f"{self.name}: {remark}" for remark in remarks)

    def _ask(self, request: str, job: Mapping[str, Any]) -> Any:
        try:
            return self._child.ask(request, job)
        except ProcessEndedError as error:
            error.hint = f"{self.name} crashed: that is a fault of the runtime, or of the memory"
            raise

    @property
    def _folder(self) -> Path:
        return Path(self._scratch.name)


def peer_runtime(name: str, kind: type, python: str | None = None) -> Runtime:
    """Return one of `peers`, as this Python or another one has it.

    Args:
        name: what it is called without its place.
        kind: its class.
        python: the other Python; None is this one.
    """
    file = sys.modules[kind.__module__].__file__
    assert file is not None
    command = (python or sys.executable, "-E", _FOLDER / "serving.py", file, kind.__name__)
    place = Place(f"{name}@{python}" if python else name, command)
    described = describe(kind, None)
    return _runtime(
        place,
        description=kind.description + (f" as {python} has it" if python else ""),  # type: ignore[attr-defined]
        options=described["options"],
        by_default=getattr(kind, "by_default", False) and python is None,
        available=None if python else lambda: described["problem"],
    )


def own_runtime_elsewhere(file: Path, kind: str, python: str, with_options: bool = False) -> Runtime:
    """Return a class of the user's own as another Python runs it; its options are asked for there.

    Raises:
        HsmExportError: they cannot be asked for.
    """
    name = f"{file}:{kind}@{python}"
    place = Place(name, (python, "-E", _FOLDER / "serving.py", file, kind))
    options = place.described()["options"] if with_options else {}
    return _runtime(place, description=f"{kind} of {file} as {python} runs it", options=options)


def javascript_runtime(package: str, folder: str | None = None) -> Runtime:
    """Return a package of ONNX Runtime for JavaScript, in Node.js.

    Args:
        package: "onnxruntime-node" or "onnxruntime-web".
        folder: the folder whose `node_modules` holds it; None is the current one.
    """
    command = ("node", _FOLDER / "serving.mjs", package, folder or ".")
    place = Place(f"{package}@{folder}" if folder else package, command)
    kind = "in WebAssembly, as browsers run it" if package.endswith("web") else "on the CPU"
    return _runtime(place, description=f"ONNX Runtime for JavaScript in Node.js, {kind}, from the function bodies")


def _runtime(
    place: Place,
    description: str,
    options: Mapping[str, str] | None = None,
    by_default: bool = False,
    available: Callable[[], str | None] | None = None,
) -> Runtime:
    return Runtime(
        name=place.name,
        description=description,
        available=available or place.problem,
        runner=lambda context: OtherProcessRunner(context, place),
        by_default=by_default,
        own_process=True,
        options=options or {},
        configure=lambda values: _runtime(replace(place, options=values), description, options, by_default, available),
    )
