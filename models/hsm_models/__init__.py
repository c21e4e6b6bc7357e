"""PyTorch models with HSM, TaylorShift and SwitchHead mixers; knows nothing of ONNX.

    import hsm_models
    model = hsm_models.load_checkpoint("zoo:hsm-lm")
    logits = model(tokens)

Public names are imported at their first use, so that `import hsm_models` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import build_model, fingerprint, load_checkpoint, read_config, resolve, save_checkpoint
    from .config import (
        HSMConfig,
        ImageConfig,
        LayerConfig,
        MLPConfig,
        ModelConfig,
        MoEConfig,
        SoftmaxConfig,
        SwitchHeadConfig,
        TaylorShiftConfig,
    )
    from .errors import CheckpointError, ConfigError, DataError, ModelError
    from .language_model import LanguageModel
    from .mixers import HSM, SoftmaxAttention, SwitchHead, TaylorShift
    from .sequence_classifier import SequenceClassifier

_HOMES = {
    "HSM": ".mixers",
    "SoftmaxAttention": ".mixers",
    "SwitchHead": ".mixers",
    "TaylorShift": ".mixers",
    "LanguageModel": ".language_model",
    "SequenceClassifier": ".sequence_classifier",
    "build_model": ".checkpoint",
    "fingerprint": ".checkpoint",
    "load_checkpoint": ".checkpoint",
    "read_config": ".checkpoint",
    "resolve": ".checkpoint",
    "save_checkpoint": ".checkpoint",
    "HSMConfig": ".config",
    "ImageConfig": ".config",
    "LayerConfig": ".config",
    "MLPConfig": ".config",
    "ModelConfig": ".config",
    "MoEConfig": ".config",
    "SoftmaxConfig": ".config",
    "SwitchHeadConfig": ".config",
    "TaylorShiftConfig": ".config",
    "CheckpointError": ".errors",
    "ConfigError": ".errors",
    "DataError": ".errors",
    "ModelError": ".errors",
}

__all__ = [
    "HSM",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "HSMConfig",
    "ImageConfig",
    "LanguageModel",
    "LayerConfig",
    "MLPConfig",
    "MoEConfig",
    "ModelConfig",
    "ModelError",
    "SequenceClassifier",
    "SoftmaxAttention",
    "SoftmaxConfig",
    "SwitchHead",
    "SwitchHeadConfig",
    "TaylorShift",
    "TaylorShiftConfig",
    "__version__",
    "build_model",
    "fingerprint",
    "load_checkpoint",
    "read_config",
    "resolve",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Import the module behind a public name at its first use."""
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return __all__


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hsm-export")
    except PackageNotFoundError:
        return "0+unknown"
