"""What a file holds: ONNX models, engines and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import BadInputError
from ..files import require_file
from .result import (
    CheckpointResult,
    ConfigResult,
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
    "ConfigResult",
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

LENGTHS = (1, 128, 1024, 4096)
_ENGINES = (".engine", ".plan", ".trt")
_AUTHORS = (".pt", ".pth", ".tar", ".ckpt", ".bin")


def inspect(path: str | Path, *, lengths: Sequence[int] | None = None, context: int = 0) -> InspectResult:
    """Describe an ONNX file, an engine, a checkpoint or a model's configuration.

    Nothing is executed, no weights are loaded, and an engine needs no GPU: its side file is read.

    Args:
        path: a file, a checkpoint folder, or "zoo:NAME"; a configuration is a .json file.
        lengths: tokens of the sequences whose work is counted; None means 1, 128, 1024 and 4096.
        context: of checkpoints and configurations, tokens before each sequence whose keys and values are in memory, as
            in Transformer-XL.

    Returns:
        An `OnnxResult`, `EngineResult`, `CheckpointResult` or `ConfigResult`.

    Raises:
        BadInputError: the file is missing, damaged, or of another kind.
        hsm_models.errors.CheckpointError, ConfigError: a checkpoint is damaged or contradicts itself.
    """
    path = _resolve(path)
    chosen = tuple(lengths or LENGTHS)
    if path.is_dir() or path.suffix == ".safetensors":
        from .checkpoint_file import inspect_checkpoint

        return inspect_checkpoint(path, chosen, context)
    require_file(path, "the file")
    if path.suffix == ".json":
        from .configuration import inspect_configuration

        return inspect_configuration(path, chosen, context)
    if path.suffix in _ENGINES:
        from .engine_file import inspect_engine

        return inspect_engine(path, chosen)
    if path.suffix in _AUTHORS:
        raise BadInputError(
            f"{path} looks like a PyTorch pickle, which is not read here",
            "turn it into a checkpoint with `hsm-export import`",
        )
    from .onnx_file import inspect_onnx

    return inspect_onnx(path, chosen)


def _resolve(path: str | Path) -> Path:
    if not str(path).startswith("zoo:"):
        return Path(path)
    from hsm_models.checkpoint import resolve

    return resolve(str(path))
