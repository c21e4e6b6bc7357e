"""Numbers from a file as a reference: `--reference expected.npz`."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from ..errors import BadInputError
from ..files import require_file
from ..runtimes.metadata import graph_metadata
from ..runtimes.runtime import RunContext, Runtime

NAME = "stored"


def stored_reference(path: str | Path) -> Runtime:
    """Return a runtime that gives the arrays of an .npz file, whatever it is fed.

    Args:
        path: the file; its arrays are named as the graph's outputs. Its numbers belong to one set of inputs.

    Raises:
        BadInputError: the file is missing or damaged.
    """
    path = require_file(path, "the reference")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{path} is not a whole .npz file: {error}", "write it with np.savez") from error
    return Runtime(NAME, f"the numbers of {path}", lambda: None, lambda context: _StoredRunner(context, arrays, path))


class _StoredRunner(BaseRunner):  # type: ignore[misc]
    def __init__(self, context: RunContext, arrays: dict[str, Any], path: Path) -> None:
        super().__init__(name=NAME)
        self._context = context
        self._arrays = arrays
        self._path = path

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        names = [value.name for value in self._context.model.graph.output]
        missing = [name for name in names if name not in self._arrays]
        if missing:
            raise BadInputError(
                f"{self._path} lacks the output {missing[0]}; it holds {', '.join(self._arrays) or 'nothing'}",
                "name the arrays as the graph's outputs",
            )
        self.inference_time = 0.0
        return OrderedDict((name, self._arrays[name]) for name in names)
