"""Runtime `torch-compile`: the PyTorch model, compiled by torch.compile with its defaults."""

from __future__ import annotations

from .runtime import RunContext, Runtime
from .torch_module import TorchModuleRunner


class TorchCompileRunner(TorchModuleRunner):
    """Runs the compiled PyTorch model in the file's precision.

    The operators of domain `hsm` stay calls of their PyTorch versions; what stands between them is fused.

    Args:
        context: the model's source and the ONNX file that names the inputs and outputs.
    """

    def __init__(self, context: RunContext) -> None:
        super().__init__(context, context.precision, "torch-compile")

    def activate_impl(self) -> None:
        super().activate_impl()
        # In place, which keeps the names of forward's parameters.
        self._module.compile()


def _available() -> str | None:
    """Return None when torch.compile has the C++ compiler that it needs, else the reason why not."""
    import os
    import shutil

    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None and shutil.which("clang++") is None:
        return "torch.compile needs a C++ compiler; install g++"
    return None


TORCH_COMPILE = Runtime(
    name="torch-compile",
    description="the PyTorch model, compiled by torch.compile",
    available=_available,
    runner=TorchCompileRunner,
    needs_source=True,
    by_default=False,
)
