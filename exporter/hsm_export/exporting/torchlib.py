"""PyTorch's table of translations to ONNX, made once a process."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Let torch.onnx.export copy the table of translations that an earlier call made.

    It parses the sources of onnxscript's 550 functions each time, a quarter of the export of a small model. Where this
    version of PyTorch makes its table by another way, nothing is changed.
    """
    try:
        from torch.onnx._internal.exporter import _registration

        registry = _registration.ONNXRegistry
    except (ImportError, AttributeError):
        yield
        return
    made = vars(registry).get("from_torchlib")
    if not isinstance(made, classmethod) or made.__func__.__module__ == __name__:  # another thread's
        yield
        return

    def copied(cls: Any, *arguments: Any, **named: Any) -> Any:
        table = _table(registry, made, arguments, tuple(named.items()))
        copy = cls()
        vars(copy).update(vars(table) | {"functions": {key: list(value) for key, value in table.functions.items()}})
        return copy

    setattr(registry, "from_torchlib", classmethod(copied))  # noqa: B010 (mypy knows no such assignment)
    try:
        yield
    finally:
        setattr(registry, "from_torchlib", made)  # noqa: B010


@functools.cache
def _table(registry: Any, made: Any, arguments: tuple[Any, ...], named: tuple[tuple[str, Any], ...]) -> Any:
    return made.__get__(None, registry)(*arguments, **dict(named))
