"""What advances a batch of sequences by one call: ONNX Runtime or PyTorch behind one interface."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes
import numpy as np

from hsm_operators import DOMAIN

from ..dtypes import BY_NAME
from ..errors import HsmExportError
from ..formats.state_spec import Array, State, StateSpec
from ..onnx_model.in_place import updated_in_place

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

_BFLOAT16 = BY_NAME["bfloat16"]  # the one type of a state that NumPy has no name for


class Stepper(Protocol):
    """Advances sequences.

    Attributes:
        spec: the states.
        vocab_size: token ids V.
    """

    spec: StateSpec
    vocab_size: int

    def run(self, tokens: Array, position: Array, lengths: Array, state: State) -> tuple[Array, State]:
        """Feed the next tokens of each row.

        Args:
            tokens: (B,T) int64, right-padded.
            position: (B,) int64, tokens of each row that came before.
            lengths: (B,) int64, valid tokens of each row, 0..T.
            state: `past` name -> array. It may be overwritten: use what is returned from then on.

        Returns:
            Logits (B,T,V), or (B,1,V) of token lengths-1 when `spec.last_logits`, and the state after the valid tokens.
        """
        ...


class OrtStepper:
    """A decode graph in ONNX Runtime on the CPU, its states bound to their buffers.

    Where a kernel updates a state in place, one buffer serves as input and output; every other state has two buffers
    that change roles after each call.

    Args:
        model: the decode graph; bfloat16 ones are rewritten to what ONNX Runtime can run, their states stay bfloat16.
        folder: the directory that its external data is relative to.
        spec: its states.
        kernels: the custom-op library that runs nodes of domain `hsm`; None runs their bodies.
        in_place: bind one buffer to both names where that is safe.

    Raises:
        MissingDependencyError: ONNX Runtime does not take the library.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        spec: StateSpec,
        *,
        kernels: Path | None = None,
        in_place: bool = True,
    ) -> None:
        from ..onnx_model.bfloat16 import widen_bfloat16
        from ..onnx_model.fusing import fusion
        from ..runtimes.session import cpu_session

        self.spec = spec
        self.vocab_size = _vocabulary(model)
        runnable = widen_bfloat16(model)
        fused = () if kernels is None else (DOMAIN, *fusion(model, "onnxruntime").domains)
        self.in_place = updated_in_place(runnable.graph, spec, fused=fused) if in_place else frozenset()
        # As the C++ runtime does, whoever quantised the file: both give the same tokens.
        self._session = cpu_session(runnable, folder, kernels=kernels, spinning=True, float_activations=True)
        self._binding = self._session.io_binding()
        self._bound: State = {}
        self._spare: State = {}

    def run(self, tokens: Array, position: Array, lengths: Array, state: State) -> tuple[Array, State]:
        logits = np.empty((len(tokens), 1 if self.spec.last_logits else tokens.shape[1], self.vocab_size), np.float32)
        after = {name: array if name in self.in_place else self._buffer(name, array) for name, array in state.items()}
        for name, array in {"tokens": tokens, "position": position, "lengths": lengths, **state}.items():
            self._bind(self._binding.bind_input, name, array)
        self._bind(self._binding.bind_output, "logits", logits)
        for tensor in self.spec.tensors:
            self._bind(self._binding.bind_output, tensor.present, after[tensor.past])
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise HsmExportError(f"ONNX Runtime cannot run the decode step: {error}") from error
        self._spare = {name: array for name, array in state.items() if name not in self.in_place}
        return logits, after

    def _buffer(self, name: str, like: Array) -> Array:
        """Return the second buffer of a state, which must not be the first."""
        spare = self._spare.get(name)
        usable = spare is not None and spare.shape == like.shape and spare is not like
        return spare if usable and spare is not None else np.empty_like(like)

    def _bind(self, bind: Any, name: str, array: Array) -> None:
        if self._bound.get(name) is array:
            return
        kind = _BFLOAT16.onnx if array.dtype == ml_dtypes.bfloat16 else array.dtype.type
        bind(name, "cpu", 0, kind, array.shape, array.ctypes.data)
        self._bound[name] = array  # the binding holds an address only


class ReferenceStepper:
    """A decode graph in onnx's own Python evaluator: slow, and nobody else's mistakes.

    Args:
        model: the decode graph with its weights.
        spec: its states.
    """

    def __init__(self, model: onnx.ModelProto, spec: StateSpec) -> None:
        from onnx.reference import ReferenceEvaluator

        from ..runtimes.evaluator import operators

        self.spec = spec
        self.vocab_size = _vocabulary(model)
        self._evaluator = ReferenceEvaluator(model, new_ops=operators())

    def run(self, tokens: Array, position: Array, lengths: Array, state: State) -> tuple[Array, State]:
        feed = {"tokens": tokens, "position": position, "lengths": lengths, **state}
        names = ["logits", *(tensor.present for tensor in self.spec.tensors)]
        try:
            with np.errstate(all="ignore"):
                results: Any = self._evaluator.run(names, feed)
        except Exception as error:  # whatever NumPy raises inside an operator
            raise HsmExportError(f"onnx's evaluator cannot run the decode step: {error}") from error
        present = {tensor.past: array for tensor, array in zip(self.spec.tensors, results[1:], strict=True)}
        return results[0], present


class TorchStepper:
    """The PyTorch model itself.

    Args:
        model: in evaluation mode and the type that it shall compute in.
        spec: its states.
    """

    def __init__(self, model: nn.Module, spec: StateSpec) -> None:
        from hsm_models.decoding import decodable

        from ..exporting.decoder_check import vocabulary

        self.spec = spec
        self.vocab_size = vocabulary(model, type(model).__name__)
        self._decoder = decodable(model)

    def run(self, tokens: Array, position: Array, lengths: Array, state: State) -> tuple[Array, State]:
        from ..runtimes.reference_maths import reference_maths

        own = {name.removeprefix("past."): _tensor(array) for name, array in state.items()}
        with reference_maths():
            logits, own = self._decoder.forward_cached(_tensor(tokens), own, _tensor(position), _tensor(lengths))
        return _array(logits), {f"past.{name}": _array(tensor) for name, tensor in own.items()}


def _vocabulary(model: onnx.ModelProto) -> int:
    """Return V, the last dimension of the logits."""
    (logits,) = (output for output in model.graph.output if output.name == "logits")
    return int(logits.type.tensor_type.shape.dim[-1].dim_value)


def _tensor(array: Array) -> torch.Tensor:
    """Return a tensor of the same memory; PyTorch does not know NumPy's bfloat16 by name."""
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: torch.Tensor) -> Array:
    """Return an array of the same memory."""
    import torch

    if tensor.dtype == torch.bfloat16:
        bits: Array = tensor.contiguous().view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = tensor.numpy()
    return array
