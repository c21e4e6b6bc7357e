"""Runtime `cpp`: the C++ runtime, as an application embeds it, in a process of its own.

The graph becomes a bundle in a temporary folder, `hsm-run --serve` opens it, and tensors travel in .safetensors files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from ..errors import MissingDependencyError
from ..native import custom_ops_path, run_program_path
from ..onnx_model.bfloat16 import runnable
from ..onnx_model.fusing import fusion, library_entries
from .cpp_bundle import NOTHING, refusal, write_graph_bundle
from .cpp_process import ServingProcess
from .metadata import graph_metadata
from .runtime import RunContext, Runtime
from .session import thread_count

_LIBRARY_VARIABLE = "HSM_ONNXRUNTIME_LIBRARY"
# A run of a large model may take minutes; one that takes longer than this hangs.
_TIMEOUT = 1800.0


class CppRunner(BaseRunner):  # type: ignore[misc]
    """Runs a graph in `hsm-run`.

    Args:
        context: the run context whose graph inputs are fed.
        timeout: seconds that loading or one run may take.
    """

    def __init__(self, context: RunContext, timeout: float = _TIMEOUT) -> None:
        super().__init__(name="cpp")
        self._context = context
        self._timeout = timeout
        self._process: ServingProcess | None = None

    @property
    def pid(self) -> int:
        """The process that runs the graph, whose memory counts."""
        assert self._process is not None
        return self._process.pid

    def activate_impl(self) -> None:
        model = runnable(self._context.model, self._context.precision)
        self._types = {
            value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            for value in model.graph.input
        }
        self._outputs = [value.name for value in model.graph.output]
        self._scratch = TemporaryDirectory(prefix="hsm-cpp-")
        try:
            bundle = self._folder / "graph.hsm"
            others = fusion(model, "onnxruntime")
            write_graph_bundle(model, self._context.folder, bundle, tuple(library_entries(others, "onnxruntime")))
            command = _command(bundle, [path.parent for path in others.libraries])
            self._process = ServingProcess(command, _environment(), self._timeout)
            shutil.rmtree(bundle)  # it is loaded; what it needs of the weights stays mapped
        except BaseException:
            self._scratch.cleanup()
            raise

    def deactivate_impl(self) -> None:
        try:
            if self._process is not None:
                self._process.stop()
        finally:
            self._process = None
            self._scratch.cleanup()

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        from safetensors.numpy import load_file

        assert self._process is not None
        outputs = self._folder / "outputs.safetensors"
        self.inference_time = self._process.ask("run", self._write(feed_dict), outputs)
        arrays = load_file(outputs)
        return OrderedDict((name, arrays[name]) for name in self._outputs)

    def time_calls(self, feed_dict: dict[str, Any], seconds: float) -> float:
        """Return the median time in seconds of calls that take so many seconds together, measured inside `hsm-run`."""
        assert self._process is not None
        return self._process.ask("time", self._write(feed_dict), str(seconds), extra_seconds=seconds)

    @property
    def _folder(self) -> Path:
        return Path(self._scratch.name)

    def _write(self, feed_dict: dict[str, Any]) -> Path:
        """Write inputs in the graph's own types; return the file."""
        from safetensors.numpy import save_file

        path = self._folder / "inputs.safetensors"
        arrays = {name: np.asarray(array, self._types[name], order="C") for name, array in feed_dict.items()}
        save_file(arrays if self._types else {NOTHING: np.zeros(1, np.float32)}, path)
        return path


def _command(bundle: Path, libraries: Sequence[Path]) -> list[str | Path]:
    """Return how the program is started; `libraries` are the folders of those of operators that are not ours."""
    found = ["--libraries", ":".join(map(str, dict.fromkeys(libraries)))] if libraries else []
    fixed = ("--serve", "--quiet", "--part", "model", "--backend", "onnxruntime-fused")
    return [
        run_program_path(),
        bundle,
        *fixed,
        "--kernels",
        custom_ops_path(),
        "--threads",
        str(thread_count()),
        *found,
    ]


def _environment() -> dict[str, str]:
    return {_LIBRARY_VARIABLE: str(onnxruntime_library())}


def onnxruntime_library() -> Path:
    """Return ONNX Runtime's shared library: the one that the environment names, or that of the Python package.

    Raises:
        MissingDependencyError: there is none.
    """
    from importlib.util import find_spec

    named = os.environ.get(_LIBRARY_VARIABLE)
    if named:
        return Path(named)
    spec = find_spec("onnxruntime")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("capi/libonnxruntime.so*")):
            return path
    raise MissingDependencyError("there is no libonnxruntime.so", "pip install 'hsm-export[cpu]'")


def _available() -> str | None:
    """Return None when `hsm-run` starts and has what it needs, else the reason why not."""
    try:
        program = run_program_path()
        custom_ops_path()
        onnxruntime_library()
        done = subprocess.run([program, "--help"], capture_output=True, text=True, errors="replace", timeout=60)
    except MissingDependencyError as error:
        return f"{error.message}; {error.hint}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} cannot be started: {error}"
    if done.returncode != 0 or "--serve" not in done.stdout:
        return f"{program} is not the hsm-run of this version; pip install --force-reinstall --no-deps hsm-export"
    return None


CPP = Runtime(
    name="cpp",
    description="the C++ runtime library with the fused kernels, in a process of its own (hsm-run)",
    available=_available,
    runner=CppRunner,
    own_process=True,
    notes=lambda model: fusion(model, "onnxruntime").notes,
    refuses=lambda file: refusal(file.model),
)
