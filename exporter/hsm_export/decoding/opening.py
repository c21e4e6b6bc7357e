"""From a file, a bundle, a checkpoint or a zoo model to what runs it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MissingDependencyError, UsageError
from ..torch_model.user_module import copied

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from ..formats.state_spec import StateSpec
    from .steppers import Stepper

ONNX_RUNTIMES = ("ort-fused", "ort", "cuda-emulated", "onnx-reference")
TORCH_RUNTIMES = {"torch": "fp32", "torch64": "fp64"}
RUNTIMES = (*ONNX_RUNTIMES, *TORCH_RUNTIMES)


def open_stepper(model: str | Path | nn.Module, runtime: str | None, rollback: int = 0) -> tuple[str, Stepper]:
    """Return a runtime's name and what it runs; arguments and errors as for `DecodeSession`."""
    if runtime is not None and runtime not in RUNTIMES:
        raise UsageError(f"cannot decode in the runtime {runtime!r}", f"choose from {', '.join(RUNTIMES)}")
    if isinstance(model, (str, Path)):
        model = _of_bundle(model)
    if isinstance(model, (str, Path)) and is_onnx(model):
        if rollback:
            raise UsageError("a file's spare slots are fixed", "export it with --rollback")
        return _open_file(Path(model), runtime or _best())
    if runtime in ONNX_RUNTIMES:
        return _open_exported(model, runtime, rollback)
    return _open_module(model, runtime or "torch", rollback)


def _of_bundle(model: str | Path) -> str | Path:
    """Return the decoding file of a bundle, that for CPUs if it has two; anything else as it is."""
    from ..formats.bundle_manifest import MANIFEST, parse_manifest

    folder = Path(model)
    manifest = folder / MANIFEST
    if not manifest.is_file() or (folder / "config.json").is_file():  # the folder of a checkpoint
        return model
    entry = parse_manifest(manifest.read_bytes(), str(manifest)).decode
    if entry is None:
        raise UsageError(f"the bundle {model} has no decoding model", "bundle a file exported with --decode")
    return folder / (entry.cpu_file or entry.file)


def is_onnx(model: str | Path) -> bool:
    """Return whether a model is named as an ONNX file; anything else is a checkpoint."""
    return Path(model).suffix == ".onnx"


def _best() -> str:
    """Return the fastest runtime of ONNX files that works here."""
    from ..runtimes import get

    return "ort-fused" if get("ort-fused").available() is None else "ort"


def _open_file(path: Path, runtime: str) -> tuple[str, Stepper]:
    from ..onnx_model.model_file import open_model
    from ..runtimes import get

    if runtime in TORCH_RUNTIMES:
        raise UsageError(f"the runtime {runtime} runs checkpoints, not ONNX files", "name the checkpoint instead")
    file = open_model(path)
    spec = file.state()
    reason = get(runtime).available()
    if reason:
        raise MissingDependencyError(f"the runtime {runtime} does not work here: {reason}")
    return runtime, _stepper(file.model, path, spec, runtime)


def _stepper(model: onnx.ModelProto, path: Path, spec: StateSpec, runtime: str) -> Stepper:
    from ..native import custom_ops_path, emulated_ops_path
    from .steppers import OrtStepper, ReferenceStepper

    if runtime == "onnx-reference":
        import onnx

        onnx.load_external_data_for_model(model, str(path.parent))
        return ReferenceStepper(model, spec)
    libraries = {"ort-fused": custom_ops_path, "cuda-emulated": emulated_ops_path}
    kernels = libraries[runtime]() if runtime in libraries else None
    return OrtStepper(model, path.parent, spec, kernels=kernels)


def _open_exported(model: str | Path | nn.Module, runtime: str, rollback: int) -> tuple[str, Stepper]:
    """Export a model to a file that lives until the session holds it."""
    from ..exporting import export

    with tempfile.TemporaryDirectory(prefix="hsm-export.") as folder:
        path = Path(folder) / "model.onnx"
        export(model, output=path, decode=True, rollback=rollback)
        return _open_file(path, runtime)


def _open_module(model: str | Path | nn.Module, runtime: str, rollback: int) -> tuple[str, Stepper]:
    import torch

    from ..exporting.decoder_check import check_decoder, decoder_of
    from ..formats.state_spec import StateSpec
    from ..torch_model.torch_source import open_source
    from .steppers import TorchStepper

    source = open_source(model)
    module = source.load()
    precision = TORCH_RUNTIMES[runtime]
    spec = StateSpec.of(decoder_of(module), precision, rollback=rollback)
    check_decoder(module, source.name)
    return runtime, TorchStepper(copied(module, torch.float64) if precision == "fp64" else module, spec)
