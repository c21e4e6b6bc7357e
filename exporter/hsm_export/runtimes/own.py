"""A runtime of one's own: a class that takes a file and is called with inputs.

    class Mine:
        def __init__(self, model: Path) -> None:          # an ONNX file, its bodies inlined
            self.session = some_library.load(model)

        def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return self.session.run(inputs)

The outputs may be a list in the graph's order. `hsm-export validate m.onnx --runtimes ort,mine.py:Mine` runs it;
`register_runtime` and the entry point group `hsm_export.runtimes` take it too. Attributes of the class say more:
`functions = True` leaves the functions in the file, `description` is for `doctor`, and `available()` returns None or
the reason why it does not work here.
"""

from __future__ import annotations

import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from ..errors import BadInputError
from .metadata import graph_metadata, typed_feed
from .portable_model import portable_model, with_weights
from .runtime import RunContext, Runtime

# Larger files would not fit into one message of protobuf.
_LARGEST_MESSAGE = 1 << 30


class OwnRunner(BaseRunner):  # type: ignore[misc]
    """Runs a file by something that takes its path and is called with arrays.

    Args:
        context: the run context whose graph inputs are fed.
        make: takes the file's path and returns what maps inputs by name to outputs by name.
        name: the runner's name in Polygraphy's results.
        functions: leave the functions in the file; otherwise it has ONNX's own operators alone.
    """

    def __init__(self, context: RunContext, make: Callable[[Path], Any], name: str, functions: bool) -> None:
        super().__init__(name=name)
        self._context = context
        self._make = make
        self._functions = functions

    def activate_impl(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="hsm-runtime-")
        try:
            path = Path(self._scratch.name) / "model.onnx"
            whole = with_weights if self._functions else portable_model
            write_whole(whole(self._context.model, self._context.folder), path)
            self._run = self._make(path)
            if not callable(self._run):
                raise BadInputError(f"{self.name} makes a {type(self._run).__name__}, which cannot be called")
        except BaseException:
            self._scratch.cleanup()
            raise

    def deactivate_impl(self) -> None:
        del self._run
        self._scratch.cleanup()

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        feed = typed_feed(self._context.model, feed_dict)
        start = time.perf_counter()
        found = self._run(feed)
        self.inference_time = time.perf_counter() - start
        wanted = [output.name for output in self._context.model.graph.output]
        if isinstance(found, (list, tuple)):
            found = dict(zip(wanted, found, strict=False))
        missing = sorted(set(wanted) - set(found))
        if missing:
            raise BadInputError(f"{self.name} returns no {', '.join(missing)}", f"it must return {', '.join(wanted)}")
        return OrderedDict((name, np.asarray(found[name])) for name in wanted)


def runtime_of(found: Any, name: str) -> Runtime:
    """Return a `Runtime` as it is, and make one of a class.

    Raises:
        BadInputError: it is neither.
    """
    if isinstance(found, Runtime):
        return found
    if not callable(found):
        raise BadInputError(
            f"{name} is a {type(found).__name__}, which is no runtime",
            "a runtime is a class that takes a file's path and is called with inputs: docs/runtimes.md",
        )
    functions = bool(getattr(found, "functions", False))
    return Runtime(
        name=name,
        description=str(
            getattr(found, "description", "") or f"{getattr(found, '__name__', name)}, a runtime of one's own"
        ),
        available=getattr(found, "available", None) or (lambda: None),
        runner=lambda context: OwnRunner(context, found, name, functions),
    )


def write_whole(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph that has its weights; large ones are written beside it."""
    large = model.ByteSize() > _LARGEST_MESSAGE
    whole = onnx.ModelProto()
    whole.CopyFrom(model)  # writing weights beside it changes the graph
    onnx.save_model(whole, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)
