"""Runtime `tinygrad`: tinygrad on the CPU, which compiles with clang."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Tinygrad:
    """A model that tinygrad runs operator by operator, for fixed sizes."""

    description = "tinygrad on the CPU"
    packages = ("tinygrad",)
    install = "tinygrad"
    static = True

    def __init__(self, model: Path) -> None:
        os.environ.setdefault("DEV", "CPU")
        import tinygrad
        from tinygrad.nn.onnx import OnnxRunner

        self._tensor = tinygrad.Tensor
        self._run = OnnxRunner(str(model))

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs by name."""
        found = self._run({name: self._tensor(array) for name, array in inputs.items()})
        return {name: value.numpy() for name, value in found.items()}

    @staticmethod
    def available() -> str | None:
        """Return why it does not work here."""
        import shutil

        return (
            None
            if shutil.which(os.environ.get("CC", "clang"))
            else "tinygrad compiles with clang, which is not installed"
        )
