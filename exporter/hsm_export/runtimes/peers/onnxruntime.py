"""Runtime `ort@/path/to/python`: ONNX Runtime as another Python has it, another version or build of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class OnnxRuntime:
    """An ONNX Runtime session on the CPU."""

    description = "ONNX Runtime on the CPU, from the function bodies"
    packages = ("onnxruntime",)
    install = "onnxruntime"
    functions = True

    def __init__(self, model: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.remarks = [f"ONNX Runtime {onnxruntime.__version__}"]

    def __call__(self, inputs: dict[str, Any]) -> Any:
        """Return the outputs in order."""
        return self._session.run(None, inputs)
