"""The function `session`: ONNX Runtime with the fused kernels of a file's operators."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError, MissingDependencyError
from ..files import require_file
from ..native import register

if TYPE_CHECKING:
    import onnxruntime


def session(path: str | Path, options: Any = None, **arguments: Any) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session that runs the file's `hsm` nodes with the fused kernels.

    Operators of others run with the kernels of their own libraries, as `hsm-export operator build` makes them; where
    one that has kernels has no library, a warning says what to build, and its body runs. Of a file in a bundle they
    are the very libraries that its manifest names.

    A bfloat16 file runs too: its standard nodes compute in float32 and round each result, because ONNX Runtime has
    next to no bfloat16 arithmetic on the CPU.

    Args:
        path: the ONNX file.
        options: an `onnxruntime.SessionOptions` to add the library to; None makes a new one.
        arguments: further arguments of `onnxruntime.InferenceSession`; its providers are the CPU's by default.

    Raises:
        MissingDependencyError: ONNX Runtime or the library is missing, or one does not take the other; or another
            library is installed than the one that the file's bundle names.
        BadInputError: the file is missing or is not an ONNX model that ONNX Runtime loads.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingDependencyError("onnxruntime is not installed", "pip install 'hsm-export[cpu]'") from error
    path = require_file(path, "the model")
    options = onnxruntime.SessionOptions() if options is None else options
    register(options)
    for library in _libraries_of_others(path):
        register(options, library)
    arguments = {"providers": ["CPUExecutionProvider"], **arguments}
    try:
        return onnxruntime.InferenceSession(str(path), sess_options=options, **arguments)
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error):
            raise BadInputError(f"ONNX Runtime cannot load {path}: {error}") from error
    try:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        return onnxruntime.InferenceSession(_widened(path), sess_options=options, **arguments)
    except Exception as error:
        raise BadInputError(f"ONNX Runtime cannot load {path}: {error}") from error


def _libraries_of_others(path: Path) -> tuple[Path, ...]:
    """Return the libraries of a file's operators that are not ours, and warn of those that are to be built."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from ..onnx_model.fusing import fusion
    from ..onnx_model.installed_libraries import named_by_bundle

    try:
        with named_by_bundle(path.parent, "onnxruntime"):
            found = fusion(onnx.load(str(path), load_external_data=False), "onnxruntime")
    except (DecodeError, ValueError):
        return ()  # ONNX Runtime says what is wrong with it
    for sentence in found.selection.missing.values():
        warnings.warn(f"{sentence}; until then its body runs", RuntimeWarning, stacklevel=3)
    return found.libraries


def _widened(path: Path) -> bytes:
    """Return the file with float32 arithmetic in place of bfloat16; weights outside the file stay there."""
    import onnx

    from ..onnx_model.bfloat16 import widen_bfloat16

    widened: bytes = widen_bfloat16(onnx.load(str(path), load_external_data=False)).SerializeToString()
    return widened
