"""Where the native libraries of this installation are."""

from __future__ import annotations

import os
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from hsm_operators import installation
from hsm_operators.installation import build_record, find_library

from .errors import BadInputError, MissingDependencyError

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
    from .files import require_file

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

    from .bundling.operator_libraries import named_by_bundle
    from .operators.fusing import fusion

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

    from .runtimes.bfloat16 import widen_bfloat16

    widened: bytes = widen_bfloat16(onnx.load(str(path), load_external_data=False)).SerializeToString()
    return widened
