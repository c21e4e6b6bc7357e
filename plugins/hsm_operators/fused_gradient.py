"""Where the backward passes that are written in Triton run: on CUDA, in types that have kernels, where Triton is.

With TRITON_INTERPRET=1, Triton's interpreter computes them on the CPU; that is how they are tested without a GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .switch import kernels_wanted

LEAST_CAPABILITY = (8, 0)
TYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class FusedGradient:
    """A backward pass in Triton.

    Attributes:
        compute: `compute(gradient of the first output, needed, *inputs)` returns gradients by the inputs' indices, at
            least those in `needed`.
        takes: says from shapes, types and attributes alone whether `compute` knows this call.
    """

    compute: Callable[..., dict[int, Tensor]]
    takes: Callable[[list[int], Sequence[Any]], bool]

    def __call__(self, output_gradient: Tensor, needed: list[int], *inputs: Any) -> dict[int, Tensor]:
        """Compute; Triton launches on the current GPU, so the tensors' is made that for the while."""
        with torch.cuda.device_of(output_gradient):
            return self.compute(output_gradient, needed, *inputs)

    def applies(self, needed: list[int], inputs: Sequence[Any]) -> bool:
        """Return whether `compute` is wanted for these inputs and can be run here."""
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        if not is_available(tensors[0].device) or not kernels_wanted():
            return False
        floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        return all(tensor.dtype in TYPES for tensor in floats) and self.takes(needed, inputs)


@functools.cache
def has_triton() -> bool:
    """Return whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def is_interpreted() -> bool:
    """Return whether Triton's interpreter computes, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def is_available(device: torch.device) -> bool:
    """Return whether Triton kernels run on a device here: a GPU that multiplies bfloat16, or the interpreter's CPU."""
    if is_interpreted():
        return device.type == "cpu" and has_triton()
    return device.type == "cuda" and has_triton() and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def product_type(dtype: torch.dtype, sums: bool = False) -> Any:
    """Return the type of Triton's in which numbers of a type are multiplied; sums do not fit into float16."""
    import triton.language as tl

    if dtype == torch.float32 or (is_interpreted() and (sums or dtype == torch.bfloat16)):
        return tl.float32  # the interpreter multiplies no bfloat16
    return tl.bfloat16 if sums or dtype == torch.bfloat16 else tl.float16
