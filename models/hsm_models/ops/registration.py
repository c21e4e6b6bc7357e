"""Registers an operator with torch from its differentiable reference maths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def register(name: str, schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Register `hsm::name` and return the operator to call.

    Args:
        name: the operator's name without namespace.
        schema: its torch schema without the name, such as "(Tensor x, int[] shifts) -> Tensor".
        reference: differentiable maths on plain torch operations; also used, with gradients on, for the backward pass.
        fake: shapes and dtypes of the outputs for tracing.
    """
    qualified = f"hsm::{name}"
    operator = torch.library.custom_op(qualified, _without_gradients(reference), mutates_args=(), schema=schema)
    operator.register_fake(fake)
    operator.register_autograd(_backward_through(reference), setup_context=_remember_inputs)
    return operator


def _without_gradients(reference: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*arguments: Any) -> Any:
        result = reference(*arguments)
        outputs = result if isinstance(result, tuple) else (result,)
        fresh = tuple(_no_alias(output, arguments) for output in outputs)
        return fresh if isinstance(result, tuple) else fresh[0]

    return forward


def _no_alias(output: Tensor, arguments: Sequence[Any]) -> Tensor:
    """Copy an output that shares memory with an input, which torch forbids to operators without mutation."""
    storages = [a.untyped_storage().data_ptr() for a in arguments if isinstance(a, Tensor)]
    return output.clone() if output.untyped_storage().data_ptr() in storages else output


def _remember_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.is_tensor = [isinstance(value, Tensor) for value in inputs]
    ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]


def _backward_through(reference: Callable[..., Any]) -> Callable[..., Any]:
    """Differentiate by running the reference once more with gradients on."""

    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        arguments = [next(saved) if tensor else other for tensor, other in zip(ctx.is_tensor, ctx.others, strict=True)]
        wanted = [index for index, need in enumerate(ctx.needs_input_grad) if need]
        for index in wanted:
            arguments[index] = arguments[index].detach().requires_grad_()
        with torch.enable_grad():
            result = reference(*arguments)
        outputs = result if isinstance(result, tuple) else (result,)
        pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
        found = torch.autograd.grad(
            [output for output, _ in pairs],
            [arguments[index] for index in wanted],
            [gradient for _, gradient in pairs],
            allow_unused=True,
        )
        by_index = dict(zip(wanted, found, strict=True))
        return tuple(by_index.get(index) for index in range(len(arguments)))

    return backward
