"""What is said where a module cannot be traced: one sentence in place of torch.export's pages of advice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import BadInputError, first_line
from .inputs import BATCH, Arguments, TraceInput

if TYPE_CHECKING:
    from torch import Tensor, nn


class FixedDimensionError(BadInputError):
    """A dimension that should be dynamic is fixed by the module's code: `dim` of the input at place `index`."""

    def __init__(self, message: str, hint: str, index: int, dim: int) -> None:
        super().__init__(message, hint)
        self.index, self.dim = index, dim


def capture_error(error: Exception, module: nn.Module, arguments: Arguments) -> BadInputError:
    """Turn torch.export's pages of advice into one sentence."""
    if isinstance(error, BadInputError):
        return error
    text, what = str(error), type(module).__name__
    fixed = re.search(r"marked L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\] as dynamic .*? a constant \((\d+)\)", text)
    if fixed:
        spec, dim, size = arguments.inputs[int(fixed[1])], int(fixed[2]), fixed[3]
        others = {d: n for d, n in spec.dynamic.items() if d != dim}
        return FixedDimensionError(
            f"dimension {dim} of input {spec.name!r} cannot be dynamic: {what}.forward works only with size {size} "
            "there",
            f"make forward work for every size, or fix the dimension with dynamic={{{spec.name!r}: {others}}}",
            int(fixed[1]),
            dim,
        )
    if "data-dependent" in text:
        at = re.search(r'File "([^"]+)", line (\d+), in (\w+)\s*\n\s*(.+)', text)
        where = f" at line {at[2]} of {at[1]}: `{at[4].strip()}`" if at else ""
        return BadInputError(
            f"{what}.forward takes a decision that depends on the values of a tensor{where}",
            "express it with torch.where, or with torch.cond",
        )
    _refuse_own_fault(module, arguments)
    reason = first_line(text)
    if re.fullmatch(r"aten\.\w+(\.\w+)?", reason):
        reason = f"the size of what {reason} returns, or whether it works, depends on the values of its inputs"
    return BadInputError(
        f"torch.export cannot trace {what}: {reason}",
        "torch.export.export(module, inputs, strict=False) shows where in forward; leave that part out of it, or "
        "express it with other operators",
    )


def _refuse_own_fault(module: nn.Module, arguments: Arguments) -> None:
    """Raise BadInputError where forward itself fails on the examples, or writes buffers, which a trace stumbles over.

    Sizes of 1 were doubled for tracing, which a buffer with one row does not take.
    """
    from ..torch_model.user_module import copied

    what, failure = type(module).__name__, None
    for one in (False, True):
        copy = copied(module)
        before = {name: (id(value), value._version) for name, value in copy.named_buffers()}
        feeds = {spec.name: _narrowed(spec) if one else spec.example.clone() for spec in arguments.inputs}
        args, kwargs = arguments.call.arguments(feeds)
        try:
            copy(*args, **kwargs)
        except Exception as error:  # a user's module raises what it likes
            failure = failure or error
            continue
        after = {name: (id(value), value._version) for name, value in copy.named_buffers()}
        if changed := sorted(name for name in before if after.get(name) != before[name]):
            listed = ", ".join(f'"{name}"' for name in changed)
            raise BadInputError(
                f"{what}: forward writes {', '.join(changed)}; a file remembers nothing",
                f"hsm_export.ExplicitState(module, [{listed}]) makes inputs and outputs of them (docs/exporting.md)",
            )
        return
    assert failure is not None
    raise BadInputError(
        f"{what}.forward fails on the example inputs: {type(failure).__name__}: {first_line(failure)}",
        "call the module with them yourself; a size that must stay as it is says dynamic={...} (docs/exporting.md)",
    ) from failure


def _narrowed(spec: TraceInput) -> Tensor:
    """Return an input's example with one row where it has a batch."""
    import torch

    rows: Tensor = spec.example.clone()
    for dim, name in spec.dynamic.items():
        if name == BATCH:
            rows = rows.index_select(dim, torch.zeros(1, dtype=torch.int64))
    return rows
