"""ONNX Runtime as another Python has it, another version or build of it: `ort@/path/to/python`.

That Python needs onnxruntime and NumPy, and nothing of ours: `onnx_runtime_server.py` runs there.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from ..child_process import ChildProcess
from ..onnx_model.bfloat16 import runnable
from .metadata import graph_metadata
from .own import write_whole
from .portable_model import with_weights
from .runtime import RunContext, Runtime
from .session import thread_count

_SERVER = Path(__file__).with_name("onnx_runtime_server.py")


class OtherPythonRunner(BaseRunner):  # type: ignore[misc]
    """Runs a file in the ONNX Runtime of another Python.

    Args:
        context: the run context whose graph inputs are fed.
        python: the other Python.
        name: the runner's name in Polygraphy's results.
    """

    def __init__(self, context: RunContext, python: Path, name: str) -> None:
        super().__init__(name=name)
        self._context = context
        self._python = python

    @property
    def pid(self) -> int:
        """Number of the process that runs the model."""
        return self._child.pid

    def activate_impl(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="hsm-runtime-")
        try:
            path = self._folder / "model.onnx"
            model = runnable(self._context.model, self._context.precision)
            write_whole(with_weights(model, self._context.folder), path)
            self._child = ChildProcess(self.name, [self._python, "-E", _SERVER])
        except BaseException:
            self._scratch.cleanup()
            raise
        try:
            self._child.ask("load", {"model": str(path), "threads": thread_count()})
        except BaseException:
            self.deactivate_impl()
            raise

    def deactivate_impl(self) -> None:
        self._child.stop()
        self._scratch.cleanup()

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        inputs, outputs = self._folder / "inputs.npz", self._folder / "outputs.npz"
        arrays: dict[str, Any] = {name: np.asarray(array) for name, array in feed_dict.items()}
        np.savez(inputs, **arrays)
        self.inference_time = float(self._child.ask("run", {"inputs": str(inputs), "outputs": str(outputs)}))
        with np.load(outputs) as found:
            return OrderedDict((output.name, found[output.name]) for output in self._context.model.graph.output)

    @property
    def _folder(self) -> Path:
        return Path(self._scratch.name)


def other_onnx_runtime(python: Path) -> Runtime:
    """Return the runtime of another Python."""
    name = f"ort@{python}"

    def available() -> str | None:
        code = "import numpy, onnxruntime; print(onnxruntime.__version__)"
        try:
            done = subprocess.run(
                [python, "-E", "-c", code], capture_output=True, text=True, errors="replace", timeout=60
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{python} cannot be started: {getattr(error, 'strerror', None) or error}"
        lines = done.stderr.strip().splitlines()
        return None if done.returncode == 0 else f"{python} has no onnxruntime: {lines[-1] if lines else 'no reason'}"

    return Runtime(
        name=name,
        description=f"ONNX Runtime as {python} has it, from the function bodies",
        available=available,
        runner=lambda context: OtherPythonRunner(context, python, name),
        by_default=False,
        own_process=True,
    )
