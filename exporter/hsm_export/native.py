"""Where the native libraries of this installation are."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from hsm_operators import installation
from hsm_operators.installation import build_record, find_library

from .errors import MissingDependencyError

if TYPE_CHECKING:
    import onnxruntime

CUSTOM_OPS = "libhsm_onnxruntime.so"
CUDA_OPS = "libhsm_onnxruntime_cuda.so"
EMULATED_OPS = "libhsm_onnxruntime_emulated.so"
TENSORRT_PLUGINS = "libhsm_tensorrt.so"
RUN_PROGRAM = "hsm-run"

# What a machine must have to build a library, where it is not a C++ compiler.
_CURES = {TENSORRT_PLUGINS: "install the CUDA toolkit's nvcc (13.0)"}

# ONNX Runtime refuses a second registration with the same options, and cannot be asked about the first.
_registered: WeakKeyDictionary[Any, set[Path]] = WeakKeyDictionary()


def custom_ops_path() -> Path:
    """Return the path of the ONNX Runtime custom-op library, for `SessionOptions.register_custom_ops_library`.

    It is the one that HSM_FUSED_LIBRARY names, such as a build of changed kernels, else the installed one.

    Raises:
        MissingDependencyError: this installation was built without it, or HSM_FUSED_LIBRARY names no file.
    """
    named = os.environ.get("HSM_FUSED_LIBRARY")
    if named:
        if not Path(named).is_file():
            raise MissingDependencyError(
                f"HSM_FUSED_LIBRARY names {named}, which is not there", "correct it, or unset it"
            )
        return Path(named)
    path = find_library(CUSTOM_OPS)
    if path is None:
        raise _missing(CUSTOM_OPS)
    return path


def tensorrt_plugin_path() -> Path:
    """Return the path of the TensorRT plugins, for `IPluginRegistry.load_library` and `trtexec --dynamicPlugins`.

    Raises:
        MissingDependencyError: this installation was built without it, as it is where nvcc was not found.
    """
    path = find_library(TENSORRT_PLUGINS)
    if path is None:
        raise _missing(TENSORRT_PLUGINS, "TensorRT")
    return path


def run_program_path() -> Path:
    """Return the path of the program that runs bundles: the one that HSM_RUN_PROGRAM names, or the installed one.

    Raises:
        MissingDependencyError: there is none.
    """
    named = os.environ.get("HSM_RUN_PROGRAM")
    if named:
        path = Path(named)
        if not path.is_file():
            raise MissingDependencyError(f"HSM_RUN_PROGRAM names {path}, which is not there", "correct it, or unset it")
        return path
    for folder in installation.folders():
        if (folder / "bin" / RUN_PROGRAM).is_file():
            return folder / "bin" / RUN_PROGRAM
    raise _missing(RUN_PROGRAM, "C++ runtime")


def cmake_prefix_path() -> Path:
    """Return the folder to put on CMAKE_PREFIX_PATH, for `find_package(HsmPlugins)`.

    Raises:
        MissingDependencyError: this installation was built without the native part.
    """
    for folder in installation.folders():
        if (folder / "lib" / "cmake" / "HsmPlugins").is_dir():
            return folder
    raise _missing("CMake package")


def _missing(what: str, title: str = "") -> MissingDependencyError:
    """Return the error for a part that this installation lacks, with the reason that its build recorded.

    Args:
        what: the missing file or part.
        title: words in the title of the part of the native build that makes it; "" takes every part's reason.
    """
    parts = (build_record() or {}).get("parts")
    left_out = (
        [str(part).removeprefix("no:").strip() for part in parts if str(part).startswith("no:") and title in str(part)]
        if isinstance(parts, list)
        else []
    )
    cure = _CURES.get(what, "install a C++ compiler")
    return MissingDependencyError(
        f"this installation has no {what}: {'; '.join(left_out) or 'its native build failed or was left out'}",
        f"{cure} or cure the above, then pip install --force-reinstall --no-deps hsm-export",
    )


def emulated_ops_path() -> Path:
    """Return the path of the CUDA kernels compiled for the host, which tests use: HSM_EMULATED_LIBRARY, or installed.

    Raises:
        MissingDependencyError: there is none.
    """
    named = os.environ.get("HSM_EMULATED_LIBRARY")
    path = Path(named) if named else find_library(EMULATED_OPS)
    if path is None or not path.is_file():
        raise MissingDependencyError(
            f"there is no {EMULATED_OPS}, the CUDA kernels compiled for the CPU",
            "run `make cpp-test` in a checkout and name the library of build/native/tests/emulated in"
            " HSM_EMULATED_LIBRARY",
        )
    return path


def register(options: onnxruntime.SessionOptions, library: Path | None = None) -> None:
    """Add fused kernels to the options of a session; harmless when they were added here before.

    Args:
        options: of the session to be.
        library: the custom-op library; None takes the CPU's.

    Raises:
        MissingDependencyError: the library is missing, or this ONNX Runtime does not take it.
    """
    library = library or custom_ops_path()
    known = _registered.setdefault(options, set())
    if library in known:
        return
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        raise MissingDependencyError(
            f"ONNX Runtime {version('onnxruntime')} does not take {library}: {error}", "pip install 'hsm-export[cpu]'"
        ) from error
    known.add(library)
