"""Export PyTorch models with HSM, TaylorShift, SwitchHead or your own mixers, and prove that every runtime agrees.

Every CLI command is a function of the same name here; each returns a typed result. `operator` adds an operator of one's
own, which all of them know from then on. `session` runs a file with the fused
CPU kernels, and `custom_ops_path` and `cmake_prefix_path` say where they are:

    import hsm_export
    hsm_export.export("zoo:hsm-lm", output="hsm-lm.onnx")
    assert hsm_export.validate("hsm-lm.onnx", against="zoo:hsm-lm").passed
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hsm_models.training import train
    from hsm_operators import Attribute, Cost, Dimension, Operator, OperatorError, Port, Routing, RowRange, Rule, State
    from hsm_operators.definition import operator, operator_for, register
    from hsm_operators.discovery import load as load_operators

    from .benchmarking import bench
    from .building import accept_kit, build, write_kit
    from .bundling import bundle, open_bundle, verify_bundle
    from .bundling.triton import write_repository
    from .decoding.generator import Generator, generate
    from .decoding.perplexity import perplexity
    from .decoding.session import DecodeSession
    from .demonstration import demo
    from .diagnosis import doctor
    from .diffing import DiffOptions, diff, diff_files, plan_precision
    from .exporting import export
    from .importing import import_checkpoint
    from .inspection import inspect
    from .native import cmake_prefix_path, custom_ops_path, session, tensorrt_plugin_path
    from .validation import validate

_HOMES = {
    **dict.fromkeys(
        (
            "Attribute",
            "Cost",
            "Dimension",
            "Operator",
            "OperatorError",
            "Port",
            "Routing",
            "RowRange",
            "Rule",
            "State",
        ),
        "hsm_operators",
    ),
    "accept_kit": ".building",
    "DecodeSession": ".decoding.session",
    "DiffOptions": ".diffing",
    "Generator": ".decoding.generator",
    "bench": ".benchmarking",
    "build": ".building",
    "bundle": ".bundling",
    "cmake_prefix_path": ".native",
    "custom_ops_path": ".native",
    "demo": ".demonstration",
    "diff": ".diffing",
    "diff_files": ".diffing",
    "doctor": ".diagnosis",
    "export": ".exporting",
    "generate": ".decoding.generator",
    "import_checkpoint": ".importing",
    "inspect": ".inspection",
    "load_operators": "hsm_operators.discovery",
    "open_bundle": ".bundling",
    "operator": "hsm_operators.definition",
    "operator_for": "hsm_operators.definition",
    "perplexity": ".decoding.perplexity",
    "plan_precision": ".diffing",
    "register": "hsm_operators.definition",
    "session": ".native",
    "tensorrt_plugin_path": ".native",
    "train": "hsm_models.training",
    "validate": ".validation",
    "verify_bundle": ".bundling",
    "write_kit": ".building",
    "write_repository": ".bundling.triton",
}
# What is called otherwise at home.
_NAMES = {"load_operators": "load"}

__all__ = [
    "Attribute",
    "Cost",
    "DecodeSession",
    "DiffOptions",
    "Dimension",
    "Generator",
    "Operator",
    "OperatorError",
    "Port",
    "Routing",
    "RowRange",
    "Rule",
    "State",
    "__version__",
    "accept_kit",
    "bench",
    "build",
    "bundle",
    "cmake_prefix_path",
    "custom_ops_path",
    "demo",
    "diff",
    "diff_files",
    "doctor",
    "export",
    "generate",
    "import_checkpoint",
    "inspect",
    "load_operators",
    "open_bundle",
    "operator",
    "operator_for",
    "perplexity",
    "plan_precision",
    "register",
    "session",
    "tensorrt_plugin_path",
    "train",
    "validate",
    "verify_bundle",
    "write_kit",
    "write_repository",
]


def __getattr__(name: str) -> Any:
    """Import the module behind a public name at its first use, so that importing the package stays quick."""
    if name == "__version__":
        from importlib.metadata import version

        return version("hsm-export")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), _NAMES.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)
