"""Runtime `iree`: IREE's compiler for CPUs, and its runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Iree:
    """A model that IREE compiled for fixed sizes."""

    description = "IREE on the CPU, compiled for each size of the inputs"
    packages = ("iree.compiler", "iree.runtime", "onnx")
    install = "iree-base-compiler iree-base-runtime onnx"
    static = True

    def __init__(self, model: Path) -> None:
        import iree.runtime
        import onnx
        from iree.compiler import compile_str, version
        from iree.compiler.extras import onnx_importer
        from iree.compiler.ir import Context

        graph = onnx.shape_inference.infer_shapes(onnx.load(model), data_prop=True)
        with Context() as context:
            info = onnx_importer.ModelInfo(graph)
            module = info.create_module(context=context).operation
            onnx_importer.NodeImporter.define_function(info.main_graph, module).import_all()
            text = module.get_asm()
        target = ["--iree-llvmcpu-target-cpu=host"]
        binary = compile_str(text, input_type="onnx", target_backends=["llvm-cpu"], extra_args=target)
        self._context = iree.runtime.SystemContext(config=iree.runtime.Config("local-sync"))
        self._context.add_vm_module(iree.runtime.VmModule.copy_buffer(self._context.instance, binary))
        self._run = list(self._context.modules.values())[-1][graph.graph.name]
        self.remarks = [f"IREE {version.VERSION}, one thread"]

    def __call__(self, inputs: dict[str, Any]) -> list[Any]:
        """Return the outputs in order."""
        found = self._run(*inputs.values())
        several = found if isinstance(found, (list, tuple)) else (found,)
        return [array.to_host() for array in several]
