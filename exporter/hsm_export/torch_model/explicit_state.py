"""A streaming module whose buffers go in and come out of each call: a file remembers nothing between two calls.

    stream = hsm_export.ExplicitState(module, ["cache"])
    hsm_export.export(stream, {"frames": x, "past": stream.initial()}, "stream.onnx")

The file takes `frames` and `past_cache` and returns `output` and `present_cache`; the host feeds it back.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .user_module import unwrapped


class ExplicitState(nn.Module):
    """A module as a function of its buffers.

    Args:
        module: a module whose forward writes buffers and computes with them in the next call.
        buffers: their names, as in `named_buffers`.

    Raises:
        UsageError: the module has no such buffer.
    """

    def __init__(self, module: nn.Module, buffers: Sequence[str]) -> None:
        super().__init__()
        self.module = unwrapped(module)
        self.buffer_names = tuple(buffers)
        known = dict(self.module.named_buffers())
        if unknown := [name for name in self.buffer_names if name not in known]:
            raise UsageError(
                f"{type(self.module).__name__} has no buffer {', '.join(unknown)}",
                f"its buffers are {', '.join(known) or 'none'}",
            )

    @property
    def signature(self) -> inspect.Signature:
        """That of the module's forward, with the state as one keyword more."""
        own = inspect.signature(self.module.forward)
        past = inspect.Parameter("past", inspect.Parameter.KEYWORD_ONLY)
        parameters = list(own.parameters.values())
        place = next((i for i, one in enumerate(parameters) if one.kind is one.VAR_KEYWORD), len(parameters))
        return own.replace(parameters=[*parameters[:place], past, *parameters[place:]])

    def initial(self, batch: int | None = None) -> dict[str, Tensor]:
        """Return the state of a sequence that has not begun: the buffers as they are now.

        Args:
            batch: repeat buffers of one row so often; None leaves them.

        Raises:
            UsageError: a buffer has several rows.
        """
        found = {}
        for name, value in self.module.named_buffers():
            if name in self.buffer_names:
                if batch is not None and (value.dim() == 0 or value.shape[0] != 1):
                    raise UsageError(f"buffer {name} of shape {tuple(value.shape)} is not one row", "leave batch out")
                found[name] = value.detach().clone() if batch is None else value.detach().repeat_interleave(batch, 0)
        return found

    def forward(self, *args: Any, past: Mapping[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        """Return what the module returns, its tensors by name, and the state after it as `present`."""
        state = {name: past[name].clone() for name in self.buffer_names}  # forward may write into it
        result = torch.func.functional_call(self.module, state, args, kwargs)
        own = dict(result) if isinstance(result, Mapping) else {"output": result}
        return {**own, "present": {name: state[name] for name in self.buffer_names}}
