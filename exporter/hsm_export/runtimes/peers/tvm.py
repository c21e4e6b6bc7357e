"""Runtime `tvm`: Apache TVM's Relax, compiled by LLVM."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Tvm:
    """A model that TVM compiled for fixed sizes."""

    description = "Apache TVM on the CPU, compiled for each size of the inputs"
    packages = ("tvm", "onnx")
    install = "apache-tvm onnx"
    static = True

    def __init__(self, model: Path) -> None:
        import onnx
        import tvm
        from tvm import relax
        from tvm.relax.frontend.onnx import from_onnx

        graph = onnx.load(model)
        program = relax.get_pipeline("zero")(from_onnx(graph, keep_params_in_input=False))
        self._machine = relax.VirtualMachine(tvm.compile(program, target="llvm"), tvm.cpu())
        self._tensor = tvm.runtime.tensor
        self.remarks = [f"Apache TVM {tvm.__version__}"]

    def __call__(self, inputs: dict[str, Any]) -> list[Any]:
        """Return the outputs in order."""
        found = self._machine["main"](*map(self._tensor, inputs.values()))
        several = (found,) if hasattr(found, "numpy") else tuple(found)
        return [value.numpy() for value in several]
