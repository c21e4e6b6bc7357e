"""Runtimes `torch` and `torch64`: the PyTorch model itself."""

from __future__ import annotations

import inspect
import time
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from polygraphy.backend.base import BaseRunner

from hsm_operators.precision import accumulator

from ..dtypes import BY_PRECISION
from .evaluations import evaluated_as_body
from .metadata import graph_metadata
from .reference_maths import reference_maths
from .runtime import RunContext, Runtime
from .summation import summed_in
from .tracing import record_operators

if TYPE_CHECKING:
    from polygraphy.common import TensorMetadata

    from .routing import RoutedNode


class TorchModuleRunner(BaseRunner):  # type: ignore[misc]
    """Runs the PyTorch model in one precision; floating-point inputs are cast to it.

    Args:
        context: the model's source and the ONNX file that names the inputs and outputs.
        precision: "fp32", "fp16", "bf16" or "fp64".
        name: the runner's name in Polygraphy's results.
    """

    def __init__(self, context: RunContext, precision: str, name: str) -> None:
        super().__init__(name=name)
        self._context = context
        self._dtype = BY_PRECISION[precision].torch
        self._sums = _sums(context)

    def activate_impl(self) -> None:
        assert self._context.source is not None
        self._module = self._context.source().to(self._dtype).eval()

    def deactivate_impl(self) -> None:
        del self._module

    @property
    def module(self) -> torch.nn.Module:
        """The model that an active runner runs."""
        return self._module

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        routed, traced = self._context.routed, self._context.traced
        masks = {node.mask for node in routed}
        inputs = {name: self._tensor(name, array) for name, array in feed_dict.items() if name not in masks}
        forced = [torch.from_numpy(np.asarray(feed_dict[node.mask])) for node in routed]
        recording: AbstractContextManager[list[list[torch.Tensor]]] = record_operators() if traced else nullcontext([])
        start = time.perf_counter()
        evaluation = evaluated_as_body(self._context.as_body)
        order = summed_in(self._context.summation)
        with reference_maths(), evaluation, order, recording as operators:
            result, calls = _call(self._module, inputs, forced)
        self.inference_time = time.perf_counter() - start
        tensors = [result] if isinstance(result, torch.Tensor) else list(result)
        outputs = OrderedDict((name, to_array(tensor)) for name, tensor in zip(self._names(), tensors, strict=True))
        outputs.update(_routing_outputs(routed, calls))
        for node, results in zip(traced, operators, strict=True):
            outputs.update(zip(node.outputs, map(to_array, results), strict=True))
        return outputs

    def _names(self) -> list[str]:
        """Return the names of the outputs that are the module's own."""
        exposed = {node.logits for node in self._context.routed}
        exposed |= {name for node in self._context.traced for name in node.outputs}
        return [output.name for output in self._context.model.graph.output if output.name not in exposed]

    def _tensor(self, name: str, array: Any) -> torch.Tensor:
        """Return an input in the type that the model takes; sums of a state are float32 at least."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(accumulator(self._dtype) if name in self._sums else self._dtype)


def _sums(context: RunContext) -> frozenset[str]:
    """Return the inputs of a decoding file that are float32 whatever its precision."""
    import onnx

    return frozenset(
        value.name
        for value in context.model.graph.input
        if value.name.startswith("past.") and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    )


def _call(
    module: torch.nn.Module, inputs: dict[str, torch.Tensor], masks: list[torch.Tensor]
) -> tuple[Any, list[torch.Tensor]]:
    """Run the module; with masks, record the routing and restrict it where a mask restricts anything."""
    if not masks:
        return _forward(module, inputs), []
    from hsm_operators.routing import force_routing, record_routing

    with record_routing() as calls:
        if all(mask.all() for mask in masks):
            result = _forward(module, inputs)
        else:
            with force_routing(masks):
                result = _forward(module, inputs)
    return result, list(calls)


def _forward(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
    """Call the module by parameter names where the graph's inputs are named after them, else by position."""
    if set(inputs) <= set(inspect.signature(module.forward).parameters):
        return module(**inputs)
    return module(*inputs.values())


def _routing_outputs(routed: tuple[RoutedNode, ...], calls: list[torch.Tensor]) -> dict[str, Any]:
    if len(calls) != len(routed):
        raise ValueError(
            f"the PyTorch model chose experts {len(calls)} times, the ONNX file does so {len(routed)} times: "
            "they are not the same model"
        )
    return {node.logits: to_array(logits) for node, logits in zip(routed, calls, strict=True)}


def to_array(tensor: torch.Tensor) -> Any:
    """Return a tensor as an array; bfloat16 as float32 of the same values."""
    tensor = tensor.detach().cpu()
    # NumPy has no bfloat16 of its own; float32 holds every bfloat16 exactly.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


TORCH = Runtime(
    name="torch",
    description="the PyTorch model in the file's precision",
    available=lambda: None,
    runner=lambda context: TorchModuleRunner(context, context.precision, "torch"),
    needs_source=True,
)
TORCH64 = Runtime(
    name="torch64",
    description="the PyTorch model in float64, the arbiter",
    available=lambda: None,
    runner=lambda context: TorchModuleRunner(context, "fp64", "torch64"),
    needs_source=True,
)
