"""Runtime `tract`: Sonos' inference engine, as its Python package has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Tract:
    """A model that tract made runnable for fixed sizes."""

    description = "tract on the CPU, made for each size of the inputs"
    packages = ("tract",)
    install = "tract"
    static = True

    def __init__(self, model: Path) -> None:
        import tract

        read = tract.onnx().load(str(model))
        self._run = read.into_model().into_runnable().run
        self.remarks = [f"tract {tract.version()}"]

    def __call__(self, inputs: dict[str, Any]) -> list[Any]:
        """Return the outputs in order: tract has names of its own for them."""
        return [tensor.to_numpy() for tensor in self._run(list(inputs.values()))]
