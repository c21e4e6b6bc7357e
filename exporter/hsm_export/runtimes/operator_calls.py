"""Take the place of every operator that PyTorch calls."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

Call = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


@contextlib.contextmanager
def operators_called_by(call: Call) -> Iterator[None]:
    """Let `call(operator, arguments, options)` return the result of every operator that PyTorch calls inside the block.

    Operators that `call` calls itself are PyTorch's own.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            # Only what was compiled has to be kept from compiling `call` too. Otherwise PyTorch would import its
            # compiler, which takes seconds, and make a detour through it at every operator.
            return "torch._dynamo" in sys.modules

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return call(func, args, kwargs or {})

    with Mode():  # type: ignore[no-untyped-call]
        yield
