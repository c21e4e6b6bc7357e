"""Runtimes `torch` and `torch64`: the PyTorch model itself."""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from polygraphy.backend.base import BaseRunner

from ..dtypes import BY_PRECISION
from ..torch_model.source_call import SourceCall
from ..torch_model.user_module import copied
from .evaluations import evaluated_as_body
from .metadata import graph_metadata
from .reference_maths import reference_maths
from .rounding import round_parameters, rounded_in_torch
from .runtime import RunContext, Runtime
from .summation import summed_in
from .tracing import record_operators

if TYPE_CHECKING:
    import torch
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
        self._call = SourceCall.of_file(context.model)

    def activate_impl(self) -> None:
        assert self._context.source is not None
        self._module = copied(self._context.source(), self._dtype)
        round_parameters(self._module, self._context.precision, self._context.rounding)

    def deactivate_impl(self) -> None:
        del self._module

    @property
    def module(self) -> torch.nn.Module:
        """The model that an active runner runs."""
        return self._module

    def get_input_metadata_impl(self) -> TensorMetadata:
        return graph_metadata(self._context)

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        import torch

        routed, traced = self._context.routed, self._context.traced
        masks = {node.mask for node in routed}
        own = {name: array for name, array in feed_dict.items() if name not in masks}
        inputs = {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in own.items()}
        forced = [torch.from_numpy(np.asarray(feed_dict[node.mask])) for node in routed]
        recording: AbstractContextManager[list[list[torch.Tensor]]] = record_operators() if traced else nullcontext([])
        start = time.perf_counter()
        evaluation = evaluated_as_body(self._context.as_body)
        order = summed_in(self._context.summation)
        rounding = rounded_in_torch(self._context.precision, self._context.rounding)
        with reference_maths(self._dtype), evaluation, order, rounding, recording as operators:
            tensors, calls = self._run(inputs, forced)
        self.inference_time = time.perf_counter() - start
        outputs = OrderedDict((name, to_array(tensor)) for name, tensor in zip(self._names(), tensors, strict=True))
        outputs.update(_routing_outputs(routed, calls))
        for node, results in zip(traced, operators, strict=True):
            outputs.update(zip(node.outputs, map(to_array, results), strict=True))
        return outputs

    def _names(self) -> list[str]:
        """Return the names of the outputs that are the module's own."""
        if self._call is not None and self._call.outputs:
            return list(self._call.outputs)
        exposed = {node.logits for node in self._context.routed}
        exposed |= {name for node in self._context.traced for name in node.outputs}
        return [output.name for output in self._context.model.graph.output if output.name not in exposed]

    def _run(
        self, inputs: dict[str, torch.Tensor], masks: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Run the module; with masks, record the routing and restrict it where a mask restricts anything."""
        call = self._call or SourceCall.guessed(self._context.model, tuple(inputs), self._module)
        if not masks:
            return call.run(self._module, inputs, self._dtype), []
        from hsm_operators.routing import force_routing, record_routing

        forcing = nullcontext() if all(mask.all() for mask in masks) else force_routing(masks)
        with record_routing() as calls, forcing:
            return call.run(self._module, inputs, self._dtype), list(calls)


def _routing_outputs(routed: tuple[RoutedNode, ...], calls: list[torch.Tensor]) -> dict[str, Any]:
    if len(calls) != len(routed):
        raise ValueError(
            f"the PyTorch model chose experts {len(calls)} times, the ONNX file does so {len(routed)} times: "
            "they are not the same model"
        )
    return {node.logits: to_array(logits) for node, logits in zip(routed, calls, strict=True)}


def to_array(tensor: torch.Tensor) -> Any:
    """Return a tensor as an array; bfloat16 as float32 of the same values."""
    import torch

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
TORCH32 = Runtime(
    name="torch32",
    description="the PyTorch model in float32, the arbiter where it cannot run in float64",
    available=lambda: None,
    runner=lambda context: TorchModuleRunner(context, "fp32", "torch32"),
    needs_source=True,
    by_default=False,
)
TORCH64 = Runtime(
    name="torch64",
    description="the PyTorch model in float64, the arbiter",
    available=lambda: None,
    runner=lambda context: TorchModuleRunner(context, "fp64", "torch64"),
    needs_source=True,
)
