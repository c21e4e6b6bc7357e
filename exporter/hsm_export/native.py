"""Where the native libraries of this installation are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import MissingDependencyError

if TYPE_CHECKING:
    import onnxruntime

CUSTOM_OPS = "libhsm_onnxruntime.so"


def build_record() -> dict[str, object] | None:
    """Return what the wheel's native build recorded (version, compiler, libraries), or None when there was none."""
    for folder in _folders():
        try:
            record = json.loads((folder / "native.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            return record
    return None


def find_library(name: str) -> Path | None:
    """Return the path of a native library, or None when this installation lacks it."""
    return next((folder / "lib" / name for folder in _folders() if (folder / "lib" / name).is_file()), None)


def custom_ops_path() -> Path:
    """Return the path of the ONNX Runtime custom-op library, for `SessionOptions.register_custom_ops_library`.

    Raises:
        MissingDependencyError: this installation was built without it.
    """
    path = find_library(CUSTOM_OPS)
    if path is None:
        raise MissingDependencyError(
            f"this installation has no {CUSTOM_OPS}: its native build failed or was left out",
            "install a C++ compiler, then pip install --force-reinstall --no-deps hsm-export",
        )
    return path


def cmake_prefix_path() -> Path:
    """Return the folder to put on CMAKE_PREFIX_PATH, for `find_package(HsmPlugins)`.

    Raises:
        MissingDependencyError: this installation was built without the native part.
    """
    for folder in _folders():
        if (folder / "lib" / "cmake" / "HsmPlugins").is_dir():
            return folder
    raise MissingDependencyError(
        "this installation has no CMake package: its native build failed or was left out",
        "install a C++ compiler, then pip install --force-reinstall --no-deps hsm-export",
    )


def session(path: str | Path, options: Any = None, **arguments: Any) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session that runs the file's `hsm` nodes with the fused kernels.

    Args:
        path: the ONNX file.
        options: an `onnxruntime.SessionOptions` to add the library to; None makes a new one.
        arguments: further arguments of `onnxruntime.InferenceSession`; its providers are the CPU's by default.

    Raises:
        MissingDependencyError: ONNX Runtime or the library is missing.
        BadInputError: the file is missing or is not an ONNX model that ONNX Runtime loads.
    """
    from .errors import BadInputError
    from .files import require_file

    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingDependencyError("onnxruntime is not installed", "pip install 'hsm-export[cpu]'") from error
    require_file(path, "the model")
    options = options or onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(custom_ops_path()))
    arguments.setdefault("providers", ["CPUExecutionProvider"])
    try:
        return onnxruntime.InferenceSession(str(path), sess_options=options, **arguments)
    except Exception as error:
        raise BadInputError(f"ONNX Runtime cannot load {path}: {error}") from error


def _folders() -> Iterator[Path]:
    """The package's folder, and for an editable installation the one that its build installed into."""
    yield Path(__file__).parent
    try:
        yield Path(str(distribution("hsm-export").locate_file("hsm_export")))
    except PackageNotFoundError:
        return
