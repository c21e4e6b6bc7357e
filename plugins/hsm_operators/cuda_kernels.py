"""The operators' CUDA kernels on PyTorch's tensors, from libhsm_kernels_cuda.so (plugins/torch/hsm_kernels_cuda.h).

A call goes into PyTorch's current stream, and its workspace is a tensor of that stream: the call may be captured into a
CUDA graph, after one call outside of it, because CUDA loads kernels when they are first used. Row numbers (lengths,
positions) stand on the GPU and are not checked; a wrong one never leads out of the tensors.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from array import array
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .installation import cuda_kernels_path
from .kernels import WORD, Kernel, KernelLibrary
from .libraries import select
from .operator import Operator


class CudaKernelLibrary(KernelLibrary):
    """A library of CUDA kernels: ours, or one that was built for other operators.

    Args:
        path: the shared library.
        device: the type of the devices that its tensors are on; "cpu" where it was compiled for the host shim, which
            tests do.

    Raises:
        OSError: it cannot be loaded, or is none of this version.
    """

    def __init__(self, path: Path, device: str = "cuda") -> None:
        self._device = device
        super().__init__(path)

    def _declare(self) -> None:
        i32, pointer = ctypes.c_int32, ctypes.c_void_p
        self._plan = self._library.hsm_kernels_cuda_plan
        self._plan.argtypes = [i32, i32, pointer, pointer, i32, pointer, pointer]
        self._library.hsm_kernels_cuda_tactics.argtypes = [i32]
        self._library.hsm_kernels_cuda_tactics.restype = ctypes.c_char_p
        self._launch = self._library.hsm_kernels_cuda_launch
        self._launch.argtypes = [i32, i32, pointer, pointer, i32, i32, *[pointer] * 4]

    def kernel(self, operator: Operator, kind: str = "fast") -> Kernel | None:
        """Return a kernel of an operator, or None where the library has none for this very specification.

        Args:
            operator: the operator.
            kind: "fast"; there are no naive CUDA kernels.
        """
        index = self.index(operator)
        if kind != "fast" or index is None or not self._library.hsm_kernels_has(index, 0):
            return None
        return CudaKernel(operator, self, index, self._device)

    def tactics(self, operator: Operator) -> dict[str, CudaKernel]:
        """Return an operator's kernel by the name of each tactic; {} where the library has none of it.

        A call raises RefusedError where its tactic does not take the sizes, the type or the GPU.
        """
        index = self.index(operator)
        names = "" if index is None else self._library.hsm_kernels_cuda_tactics(index).decode()
        if index is None or not names:
            return {}
        return {
            name: CudaKernel(operator, self, index, self._device, number)
            for number, name in enumerate(names.split(","))
        }

    def launch(
        self, index: int, choice: int, type_code: int, words: array[int], starts: Sequence[int], first: Tensor
    ) -> None:
        """Put a call into the current stream of a tensor's device.

        Args:
            index: of the operator.
            choice: the tactic's number; -1 for the one that is expected to be the fastest.
            type_code: of T.
            words: sizes, attributes, inputs and outputs, as `Kernel` writes them.
            starts: where the last three begin.
            first: a tensor of the call.

        Raises:
            RefusedError: no kernel takes the call on this GPU.
            RuntimeError: it could not be launched.
        """
        base = words.buffer_info()[0]
        attributes, inputs, outputs = (base + start * WORD for start in starts)
        number, stream = _place(first)
        tactic, bytes_ = ctypes.c_int32(choice), ctypes.c_int64()
        self._check(self._plan(index, type_code, base, attributes, number, ctypes.byref(tactic), ctypes.byref(bytes_)))
        # Of the current stream, in which whoever gets this memory next comes after the kernels.
        workspace = torch.empty(bytes_.value, dtype=torch.uint8, device=first.device)
        self._check(
            self._launch(
                index, type_code, base, attributes, number, tactic, inputs, outputs, workspace.data_ptr(), stream
            )
        )


class CudaKernel(Kernel):
    """One operator's CUDA kernel.

    Args:
        operator: the operator.
        library: what computes.
        index: the operator's number in it.
        device: the type of the devices whose tensors it takes.
        tactic: its number; -1 for the one that is expected to be the fastest.
    """

    def __init__(
        self, operator: Operator, library: CudaKernelLibrary, index: int, device: str, tactic: int = -1
    ) -> None:
        super().__init__(operator, functools.partial(library.launch, index, tactic))
        self.device = device

    def _start(self, type_code: int, words: array[int], starts: Sequence[int], first: Tensor) -> None:
        # The library makes the tensors' GPU the thread's own; the caller gets back the one that was.
        with torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext():
            self._run(type_code, words, starts, first)


def _place(tensor: Tensor) -> tuple[int, int]:
    """Return the number of a tensor's device and the current stream of it."""
    if not tensor.is_cuda:
        return 0, 0
    return tensor.get_device(), torch.cuda.current_stream(tensor.device).cuda_stream


@functools.cache
def own_library() -> CudaKernelLibrary | None:
    """Return the library of our operators; None when this installation was built without it.

    Raises:
        OSError: it does not load.
    """
    path = cuda_kernels_path()
    return None if path is None else CudaKernelLibrary(path)


_opened = functools.cache(CudaKernelLibrary)


def libraries(operator: Operator) -> list[KernelLibrary]:
    """Return the libraries that may have an operator's CUDA kernel, ours first."""
    built = [_opened(path) for path in select([operator], "kernels_cuda").paths]
    own = own_library()
    return [*([own] if own else []), *built]
