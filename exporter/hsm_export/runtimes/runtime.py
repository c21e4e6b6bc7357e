"""What a runtime is, and what it is given to make a runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from ..onnx_model.model_file import ModelFile
    from .routing import RoutedNode
    from .session import SessionSettings
    from .tracing import TracedNode


@dataclass(frozen=True)
class RunContext:
    """What a runner runs.

    Attributes:
        model: the ONNX file, its external data not loaded; expert operators are instrumented (see `routing`).
        folder: directory of the ONNX file, where its external data lies.
        precision: "fp32", "fp16" or "bf16", the type of the file's weights and activations.
        source: returns a fresh float32 copy of the PyTorch model in eval mode; None when there is no checkpoint.
        routed: the file's expert operators in graph order, which is PyTorch's call order.
        traced: the operators whose results the graph outputs too (see `tracing`).
        as_body: PyTorch computes the operators as their bodies do (see `evaluations`); False leaves it the choice.
        summation: in which order onnx's evaluator and PyTorch add the terms of products (see `summation`); 0 is their
            own.
        rounding: PyTorch in float64 and `onnx64` round every intermediate result at random to the file's precision
            (see `rounding`); which random choice, 0 for none.
        timed: runs are timed: idle threads spin, as in production.
        remarks: what runners say of how they run it; all copies of a context share them.
    """

    model: onnx.ModelProto
    folder: Path
    precision: str
    source: Callable[[], nn.Module] | None = None
    routed: tuple[RoutedNode, ...] = ()
    traced: tuple[TracedNode, ...] = ()
    as_body: bool = False
    summation: int = 0
    rounding: int = 0
    timed: bool = False
    remarks: set[str] = field(default_factory=set, compare=False)


def no_notes(_model: onnx.ModelProto) -> Sequence[str]:
    """Return nothing to know of a file."""
    return ()


def takes_all(_file: ModelFile) -> str | None:
    """Return no reason: a runtime shows by running what it does not take."""
    return None


@dataclass(frozen=True)
class Runtime:
    """A way to run a model.

    Attributes:
        name: the name on the command line and in reports.
        description: one line for `hsm-export doctor`.
        available: returns None when the runtime works on this machine, else the reason why not.
        runner: makes a Polygraphy runner. Its inputs are the graph inputs of `context.model`, its outputs are named
            as the graph outputs.
        needs_source: it runs the PyTorch model instead of the ONNX file.
        by_default: validation runs it without being asked; False for what takes long.
        own_process: it computes in a process of its own, so that this one's memory says nothing about it.
        session: how ONNX Runtime prepares the graph; None where it is not ONNX Runtime that does.
        options: what its name may state after a colon, with a line on each.
        configure: returns the runtime with such options; raises `UsageError` for values that it does not take.
        notes: says what a reader of its results should know of how it runs a file, such as which operators run as
            their bodies.
        refuses: says why it cannot run a file, as far as the file's inputs and outputs tell; None where they do not. It
            is then left out where nobody asked for it.
    """

    name: str
    description: str
    available: Callable[[], str | None]
    runner: Callable[[RunContext], Any]
    needs_source: bool = False
    by_default: bool = True
    own_process: bool = False
    session: SessionSettings | None = None
    options: Mapping[str, str] = field(default_factory=dict, compare=False)
    configure: Callable[[Mapping[str, str]], Runtime] | None = None
    notes: Callable[[onnx.ModelProto], Sequence[str]] = field(default=no_notes, compare=False)
    refuses: Callable[[ModelFile], str | None] = field(default=takes_all, compare=False)


def missing_package(package: str, install: str) -> str | None:
    """Return None when a package can be imported, else a sentence that says what to install."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        return f"the Python package {package!r} is not installed; `pip install {install}`"
    return None
