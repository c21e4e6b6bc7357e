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

    Operators that `call` calls itself are PyTorch's own. So are those of control flow (`torch.cond`), but not what
    their branches and bodies call.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        supports_higher_order_operators = True

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            # Only what was compiled has to be kept from compiling `call` too. Otherwise PyTorch would import its
            # compiler, which takes seconds, and make a detour through it at every operator.
            return "torch._dynamo" in sys.modules

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if isinstance(func, torch._ops.HigherOrderOperator):
                return _controlled(str(func), func, self, args, kwargs or {})
            return call(func, args, kwargs or {})

    with Mode():  # type: ignore[no-untyped-call]
        yield


def _controlled(name: str, operator: Any, mode: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Compute an operator of control flow, `mode` taking the place of what its branches and bodies call."""
    if name == "cond":
        chosen, *others, operands = arguments
        with mode:
            return others[0 if bool(chosen) else 1](*operands)
    if name == "while_loop":
        wanted, body, carried, more = arguments
        with mode:
            while bool(wanted(*carried, *more)):
                carried = body(*carried, *more)
        return carried
    return operator(*arguments, **options)
