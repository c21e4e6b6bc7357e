"""torch.onnx's table of translations, made once a process: making it takes half of a small module's export."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def shared_registry() -> Iterator[None]:
    """Let torch.onnx copy the table that it made before inside the block; other versions may make their own.

    The table belongs to torch's private parts, so that whatever is not as it is known leaves torch.onnx alone.
    """
    try:
        from torch.onnx._internal.exporter import _registration

        registry: Any = _registration.ONNXRegistry
        own = registry.__dict__["from_torchlib"]
    except (ImportError, AttributeError, KeyError):
        yield
        return

    def copied(cls: Any, *arguments: Any, **options: Any) -> Any:
        made = _made(registry, own.__func__, arguments, tuple(sorted(options.items())))
        result = cls.__new__(cls)
        result.__dict__.update(made.__dict__)
        if not isinstance(getattr(made, "functions", None), dict):
            return own.__func__(cls, *arguments, **options)
        result.functions = {name: list(found) for name, found in made.functions.items()}
        return result

    registry.from_torchlib = classmethod(copied)
    try:
        yield
    finally:
        registry.from_torchlib = own


@functools.lru_cache(maxsize=4)
def _made(registry: Any, make: Any, arguments: tuple[Any, ...], options: tuple[Any, ...]) -> Any:
    return make(registry, *arguments, **dict(options))
