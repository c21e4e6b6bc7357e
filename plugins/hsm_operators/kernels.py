"""The operators' kernels on PyTorch's tensors: the CPU's, from libhsm_kernels.so (plugins/torch/hsm_kernels.h).

Those for a GPU are in `cuda_kernels`, by the same means.

The library knows nothing of PyTorch: it gets sizes and addresses through ctypes, so that it fits every version of
PyTorch. It describes its operators as text, and a kernel is used only where that is the operator's own specification.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .installation import kernels_path
from .libraries import select
from .operator import BOOL, FLOAT, INT64, UINT8, Operator, Port
from .registry import operators
from .signature import signature
from .switch import kernels_wanted
from .translation import overload_of

VERSION = 1
KINDS = ("fast", "naive")

_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_REFUSED = 1
_DEVICES = ("cpu", "cuda")  # what there are kernels for
WORD = array("q").itemsize  # bytes


def _find_parallel() -> int | None:
    """Return the address of the function by which PyTorch's threads do work, or None where it has none of OpenMP's."""
    for library in (None, torch._C.__file__):  # what is loaded for all comes first, as it does for PyTorch itself
        with contextlib.suppress(AttributeError):
            return ctypes.cast(ctypes.CDLL(library).GOMP_parallel, ctypes.c_void_p).value
    return None


_parallel = _find_parallel()


def _threads() -> tuple[int | None, int]:
    """Return the function that runs work on PyTorch's threads, and how many they are."""
    return _parallel, torch.get_num_threads()


def _forget_threads() -> None:
    """Compute on one thread from now on: a forked child has none of its parent's, and OpenMP would wait for them."""
    global _parallel
    _parallel = None


os.register_at_fork(after_in_child=_forget_threads)


class RefusedError(ValueError):
    """A kernel does not take these sizes, attributes or row numbers; nothing was computed."""


class KernelLibrary:
    """A library of kernels: ours, or one that was built for other operators.

    Args:
        path: the shared library.

    Raises:
        OSError: it cannot be loaded, or is none of this version.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        try:
            version = self._library.hsm_kernels_version()
        except AttributeError as error:
            raise OSError(f"{path} has no function hsm_kernels_version: it is no library of kernels") from error
        if version != VERSION:
            raise OSError(f"{path} has version {version} of its interface, but this hsm_operators needs {VERSION}")
        self._library.hsm_kernels_signature.restype = ctypes.c_char_p
        self._library.hsm_kernels_message.restype = ctypes.c_char_p
        signatures = [self._library.hsm_kernels_signature(i) for i in range(self._library.hsm_kernels_count())]
        self._indices = {text.decode(): index for index, text in enumerate(signatures)}
        self._declare()

    def _declare(self) -> None:
        """Tell ctypes the arguments of what computes."""
        self._run = self._library.hsm_kernels_run
        self._run.argtypes = [*[ctypes.c_int32] * 3, *[ctypes.c_void_p] * 5, ctypes.c_int32]

    @property
    def signatures(self) -> tuple[str, ...]:
        """The operators that it has kernels for, each as `signature` writes it."""
        return tuple(self._indices)

    def index(self, operator: Operator) -> int | None:
        """Return the number of an operator; None where the library does not have this very specification."""
        return self._indices.get(signature(operator))

    def kernel(self, operator: Operator, kind: str = "fast") -> Kernel | None:
        """Return a kernel of an operator, or None where the library has none for this very specification.

        Args:
            operator: the operator.
            kind: "fast", or "naive", the same formula without any art.
        """
        index = self.index(operator)
        if index is None or not self._library.hsm_kernels_has(index, KINDS.index(kind)):
            return None
        return Kernel(operator, functools.partial(self._call, index, KINDS.index(kind)))

    def _call(self, index: int, kind: int, type_code: int, words: array[int], *starts: int) -> None:
        """Run a kernel on what `words` holds; sizes stand first, the other parts begin at `starts`."""
        base = words.buffer_info()[0]
        parallel, threads = _threads()
        self._check(self._run(index, kind, type_code, base, *(base + s * WORD for s in starts), parallel, threads))

    def _check(self, status: int) -> None:
        """Raise what a call that did not succeed says."""
        if status:
            text = self._library.hsm_kernels_message().decode()
            raise RefusedError(text) if status == _REFUSED else RuntimeError(text)


class Kernel:
    """One operator's kernel.

    Args:
        operator: the operator.
        run: computes from the type's number and words of 64 bits: sizes, attributes, inputs, outputs; then where in
            them the last three begin.
    """

    device = "cpu"  # the type of the devices whose tensors it takes

    def __init__(self, operator: Operator, run: Callable[..., None]) -> None:
        self.operator = operator
        self._run = run
        self._fixed = [_fixed_type(port) for port in operator.inputs]
        # An input that says what T is; where none does, nothing is of type T.
        self._first = self._fixed.index(None) if None in self._fixed else 0
        axes = {name: (i, axis) for i, port in enumerate(operator.inputs) for axis, name in enumerate(port.shape)}
        self._outputs = [(_fixed_type(port), [axes[name] for name in port.shape]) for port in operator.outputs]
        # Some kernels write nothing in padding, where the memory may hold NaN from before: zero times NaN would spread
        # it, into gradients of weights for example.
        presents = {state.present for state in operator.states}
        padded = any(port.rows for port in operator.inputs)
        self._new = [torch.zeros if padded and p.name not in presents else torch.empty for p in operator.outputs]

    def _own_type(self, inputs: Sequence[Tensor]) -> torch.dtype:
        """Return T."""
        return inputs[self._first].dtype if self._fixed[self._first] is None else torch.float32

    def takes(self, inputs: Sequence[Tensor]) -> bool:
        """Return whether these are tensors that it knows: on one device of its type, dense, of its ports' types."""
        dtype, device = self._own_type(inputs), inputs[0].device
        if dtype not in _TYPES or device.type != self.device:
            return False
        for port, fixed, tensor in zip(self.operator.inputs, self._fixed, inputs, strict=True):
            if tensor.dtype != (fixed or dtype) or tensor.dim() != len(port.shape):
                return False
            if tensor.device != device or tensor.layout != torch.strided:
                return False
        return True

    def __call__(self, inputs: Sequence[Tensor], attributes: Mapping[str, float | Sequence[int]]) -> tuple[Tensor, ...]:
        """Compute the outputs.

        Args:
            inputs: tensors that the kernel `takes`, one for each port, in any memory format.
            attributes: all of the operator's.

        Returns:
            New contiguous tensors. Padding is unspecified, but holds nothing that was in memory before.

        Raises:
            RefusedError: sizes, attributes or row numbers that the operator does not take.
            RuntimeError: the kernel failed.
        """
        tensors = [tensor.contiguous() for tensor in inputs]
        results = self.outputs(tensors)
        self.into(tensors, attributes, results)
        return results

    def outputs(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return new tensors for the outputs of a call."""
        dtype = self._own_type(inputs)
        return tuple(
            new([inputs[i].shape[axis] for i, axis in axes], dtype=fixed or dtype, device=inputs[0].device)
            for new, (fixed, axes) in zip(self._new, self._outputs, strict=True)
        )

    def into(
        self,
        inputs: Sequence[Tensor],
        attributes: Mapping[str, float | Sequence[int]],
        outputs: Sequence[Tensor],
    ) -> None:
        """Compute into given tensors; where the operator allows it, a state's may be its input.

        Args:
            inputs: contiguous tensors that the kernel `takes`.
            attributes: all of the operator's.
            outputs: contiguous tensors as `outputs` makes them.

        Raises:
            RefusedError, RuntimeError: as of a call.
        """
        words = array("q", [size for tensor in inputs for size in tensor.shape])
        starts = [len(words)]
        for attribute in self.operator.attributes:
            value = attributes[attribute.name]
            if isinstance(value, Sequence):
                words.extend((len(value), *value))
            else:
                words.extend((1, _bits(value) if attribute.type == "float" else int(value)))
        starts.append(len(words))
        words.extend([tensor.data_ptr() for tensor in inputs])
        starts.append(len(words))
        words.extend([tensor.data_ptr() for tensor in outputs])
        self._start(_TYPES[self._own_type(inputs)], words, starts, inputs[0])

    def _start(self, type_code: int, words: array[int], starts: Sequence[int], first: Tensor) -> None:
        """Compute; the first input says on which device."""
        self._run(type_code, words, *starts)


_FIXED = {FLOAT: torch.float32, INT64: torch.int64, BOOL: torch.bool, UINT8: torch.uint8}


def _fixed_type(port: Port) -> torch.dtype | None:
    """Return a port's type, or None when it is T."""
    return _FIXED.get(port.type)


def _bits(number: float) -> int:
    """Return a float64 as the integer of the same bits."""
    bits: int = struct.unpack("q", struct.pack("d", number))[0]
    return bits


@functools.cache
def own_library() -> KernelLibrary | None:
    """Return the library of our operators; None when this installation was built without it.

    Raises:
        OSError: it does not load.
    """
    path = kernels_path()
    return None if path is None else KernelLibrary(path)


_opened = functools.cache(KernelLibrary)
_added: list[KernelLibrary] = []


def add_library(path: Path) -> KernelLibrary:
    """Let PyTorch run another library's fast kernels, of operators that others defined, from now on.

    Args:
        path: the shared library.

    Raises:
        OSError: see `KernelLibrary`.
    """
    library = KernelLibrary(path)
    _added.append(library)
    return library


def prefer_kernel(qualified: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that computes a PyTorch operator by its fused kernel where that is wanted and there is one.

    Args:
        qualified: domain and name of the PyTorch operator, such as "acme::decay_mix".
        reference: computes it in all other cases, from the same arguments.
    """

    @functools.lru_cache(len(_DEVICES))
    def bound(device: str, _libraries: int) -> _Bound | None:
        operator = next((o for o in operators() if o.torch_qualified_name == qualified), None)
        if operator is None:
            return None
        found = (library.kernel(operator) for library in _known(operator, device))
        return next((_Bound(kernel) for kernel in found if kernel), None)

    def forward(*arguments: Any) -> Any:
        device = next((a.device.type for a in arguments if isinstance(a, Tensor)), "")
        found = bound(device, len(_added)) if device in _DEVICES and kernels_wanted() else None
        results = found(arguments) if found else None
        if results is None:
            return reference(*arguments)
        return results if len(results) > 1 else results[0]

    return forward


def _known(operator: Operator, device: str) -> list[KernelLibrary]:
    """Return the libraries that may have an operator's kernel for that type of device, ours first."""
    if device == "cuda":
        from .cuda_kernels import libraries  # only where there is a GPU

        return libraries(operator)
    built = [_opened(path) for path in select([operator], "kernels").paths]
    return [library for library in (own_library(), *_added, *built) if library]


class _Bound:
    """A kernel with the places of its inputs and attributes among the arguments of the PyTorch operator."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        declared = overload_of(kernel.operator)._schema.arguments
        names = [argument.name for argument in declared]
        # PyTorch leaves out arguments at the end that have their default values.
        self._defaults = [argument.default_value if argument.has_default_value() else None for argument in declared]
        self._inputs = [names.index(port.name) for port in kernel.operator.inputs]
        self._attributes = {a.name: names.index(a.name) for a in kernel.operator.attributes}
        # What else the PyTorch operator takes says how the reference maths shall compute, or "auto".
        known = {*self._inputs, *self._attributes.values()}
        self._ways = [i for i, name in enumerate(names) if i not in known and name not in kernel.operator.ignored]

    def __call__(self, arguments: Sequence[Any]) -> tuple[Tensor, ...] | None:
        """Return the kernel's results; None where the reference shall compute, or say what is wrong."""
        arguments = (*arguments, *self._defaults[len(arguments) :])
        inputs = [arguments[index] for index in self._inputs]
        if not self._kernel.takes(inputs) or any(arguments[index] != "auto" for index in self._ways):
            return None
        try:
            return self._kernel(inputs, {name: arguments[index] for name, index in self._attributes.items()})
        except RefusedError:
            return None
