"""Runtime `mnn`: Alibaba's MNN, through its own converter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Mnn:
    """A file that MNN's converter took, for any sizes."""

    description = "MNN on the CPU, in float32"
    packages = ("MNN", "onnx")
    install = "MNN onnx"

    def __init__(self, model: Path) -> None:
        import MNN
        import MNN.nn
        import onnx

        # Not MNN.tools.mnnconvert, which installs a package by itself and sends statistics.
        from _tools import mnnconvert

        converted = model.with_suffix(".mnn")
        mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", str(model), "--MNNModel", str(converted)])
        if not converted.is_file() or not converted.stat().st_size:
            raise ValueError("MNN's converter refuses the file")
        graph = onnx.load(model, load_external_data=False).graph
        names = [[value.name for value in border] for border in (graph.input, graph.output)]
        self._types = [onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in graph.output]
        threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        settings = {"backend": MNN.expr.Backend.CPU, "precision": MNN.expr.PrecisionMode.High, "numThread": threads}
        manager = MNN.nn.create_runtime_manager((settings,))
        self._module = MNN.nn.load_module_from_file(str(converted), *names, runtime_manager=manager, dynamic=False)
        self.remarks = [f"MNN {MNN.version()}"]

    def __call__(self, inputs: dict[str, Any]) -> list[Any]:
        """Return the outputs in order."""
        import numpy

        kinds = {"int64": numpy.int32, "bool": numpy.int32, "float16": numpy.float32}
        fed = [array.astype(kinds.get(array.dtype.name, array.dtype)) for array in inputs.values()]
        found = self._module.forward([_variable(array) for array in fed])
        # It has float32 and int32 in the place of other types: rounded numbers are whole ones until they are cast.
        arrays = [numpy.array(value.read()) for value in found]
        return [array.astype(kind) for array, kind in zip(arrays, self._types, strict=True)]


def _variable(array: Any) -> Any:
    """Return an array as MNN takes it."""
    import MNN.expr as expr
    import numpy

    kind = expr.int if array.dtype == numpy.int32 else expr.float
    return expr.const(numpy.ascontiguousarray(array), list(array.shape), expr.NCHW, kind)
