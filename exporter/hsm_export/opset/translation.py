"""From the PyTorch operators `hsm::...` to nodes of domain `hsm`, for torch's ONNX exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .operator import DOMAIN, PLUGIN_NAMESPACE, PLUGIN_VERSION, VERSION, Operator
from .registry import OPERATORS

TORCH_NAMES = {
    "TokenShift": "token_shift",
    "TokenShiftCached": "token_shift_cached",
    "ShiftMix": "shift_mix",
    "ShiftMixCached": "shift_mix_cached",
    "TaylorShift": "taylor_shift",
    "TaylorShiftMasked": "taylor_shift_masked",
    "CausalTaylorShift": "causal_taylor_shift",
    "ExpertMatMul": "expert_matmul",
    "ExpertMatMulSum": "expert_matmul_sum",
}


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return `custom_translation_table` for `torch.onnx.export(dynamo=True)`: each operator becomes one node.

    The functions of `functions_for` must be appended to the exported model; torch's exporter would inline them.
    """
    import torch

    import hsm_models.ops  # noqa: F401  (registers the operators)

    namespace = getattr(torch.ops, DOMAIN)
    overloads = {name: getattr(namespace, torch_name).default for name, torch_name in TORCH_NAMES.items()}
    return {overload: _translation(OPERATORS[name], overload) for name, overload in overloads.items()}


def _translation(operator: Operator, overload: Any) -> Callable[..., Any]:
    """Return the function that records one node; arguments that the opset does not have (`form`) are dropped."""
    from onnxscript import values

    node = values.Op(values.Opset(DOMAIN, VERSION), operator.name, operator.schema)
    argument_names = [argument.name for argument in overload._schema.arguments]

    def translate(*arguments: Any, **keywords: Any) -> Any:
        bound = dict(zip(argument_names, arguments, strict=False)) | keywords
        attributes = {attribute.name: _attribute_value(bound[attribute.name]) for attribute in operator.attributes}
        return node(
            *(bound[value.name] for value in operator.inputs),
            **attributes,
            plugin_namespace=PLUGIN_NAMESPACE,
            plugin_version=PLUGIN_VERSION,
        )

    return translate


def _attribute_value(value: Any) -> int | list[int]:
    """ONNX has no booleans among its attributes."""
    return [int(item) for item in value] if isinstance(value, (list, tuple)) else int(value)
