"""What a file holds: ONNX models, engines and checkpoints."""

from __future__ import annotations

from pathlib import Path

from ..errors import BadInputError
from ..files import require_file
from .result import (
    CheckpointResult,
    Cost,
    EngineResult,
    FunctionBody,
    InspectResult,
    MixerRow,
    OnnxResult,
    StateRow,
    StateTable,
)

__all__ = [
    "CheckpointResult",
    "Cost",
    "EngineResult",
    "FunctionBody",
    "InspectResult",
    "MixerRow",
    "OnnxResult",
    "StateRow",
    "StateTable",
    "inspect",
]

_ENGINES = (".engine", ".plan", ".trt")
_AUTHORS = (".pt", ".pth", ".tar", ".ckpt", ".bin")


def inspect(path: str | Path) -> InspectResult:
    """Describe an ONNX file, an engine or a checkpoint.

    Nothing is executed, no weights are loaded, and an engine needs no GPU: its side file is read.

    Args:
        path: a file, a checkpoint folder, or "zoo:NAME".

    Returns:
        An `OnnxResult`, `EngineResult` or `CheckpointResult`.

    Raises:
        BadInputError: the file is missing, damaged, or of another kind.
        hsm_models.errors.CheckpointError, ConfigError: a checkpoint is damaged or contradicts itself.
    """
    path = _resolve(path)
    if path.is_dir() or path.suffix == ".safetensors":
        from .checkpoint_file import inspect_checkpoint

        return inspect_checkpoint(path)
    require_file(path, "the file")
    if path.suffix in _ENGINES:
        from .engine_file import inspect_engine

        return inspect_engine(path)
    if path.suffix in _AUTHORS:
        raise BadInputError(
            f"{path} looks like a PyTorch pickle, which is not read here",
            "turn it into a checkpoint with `hsm-export import`",
        )
    from .onnx_file import inspect_onnx

    return inspect_onnx(path)


def _resolve(path: str | Path) -> Path:
    if not str(path).startswith("zoo:"):
        return Path(path)
    from hsm_models.checkpoint import resolve

    return resolve(str(path))
