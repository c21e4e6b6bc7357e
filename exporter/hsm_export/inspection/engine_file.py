"""Engines, by their side files: deserialising an engine needs the driver of a GPU that it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import BadInputError
from ..files import sha256
from ..formats.engine_file import SourceFile, read_side_file, side_file_path
from .onnx_file import inspect_onnx
from .result import EngineResult, OnnxResult
from .state import state_table


def inspect_engine(path: Path, lengths: Sequence[int]) -> EngineResult:
    """Describe an engine, and the work of its ONNX file at some lengths.

    Raises:
        BadInputError: the side file is missing, damaged, or from a newer version.
    """
    side_file, found = side_file_path(path), read_side_file(path)
    size = path.stat().st_size
    return EngineResult(
        kind="engine",
        path=path,
        bytes=size,
        side_file=side_file,
        intact=size == found.engine_bytes and sha256(path) == found.engine_sha256,
        engine=found,
        onnx=_source_beside(path, found.source, lengths),
        state=state_table(found.model, str(side_file)),
    )


def _source_beside(engine: Path, source: SourceFile, lengths: Sequence[int]) -> OnnxResult | None:
    """Describe the ONNX file that the engine was built from, if it still lies beside the engine unchanged."""
    file = engine.parent / Path(source.file).name
    if not file.is_file() or sha256(file) != source.sha256:
        return None
    try:
        return inspect_onnx(file, lengths)
    except BadInputError:
        return None  # its external data is gone: the engine does not need it
