"""Registers an operator with torch from its reference maths.

An operator stays one node in the graphs of `torch.export` and `torch.compile`. A hand-written gradient is an operator
too, so it need not be traceable either: it may look at values, such as which experts were chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def register(
    name: str,
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    gradient: Callable[..., dict[int, Tensor]] | None = None,
) -> Any:
    """Register `hsm::name` and return the operator to call.

    Args:
        name: the operator's name without namespace.
        schema: its torch schema without the name, such as "(Tensor x, int[] shifts) -> Tensor".
        reference: maths on plain torch operations.
        fake: shapes and dtypes of the outputs for tracing.
        gradient: for an operator of one output, `gradient(output gradient, needed, *inputs)` returns the gradients of
            at least the inputs whose indices are in `needed`, and `hsm::name_backward` is registered for it. Without
            it the reference must be differentiable: the backward pass runs it once more, with gradients on.
    """
    qualified = f"hsm::{name}"
    operator = torch.library.custom_op(qualified, _without_gradients(reference), mutates_args=(), schema=schema)
    operator.register_fake(fake)
    differentiate = _register_gradient(name, schema, gradient) if gradient else _rerun(reference)
    operator.register_autograd(_backward_by(differentiate), setup_context=_remember_inputs)
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
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.is_tensor = [isinstance(value, Tensor) for value in inputs]
    ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]


def _backward_by(differentiate: Callable[..., Sequence[Tensor | None]]) -> Callable[..., Any]:
    """Give `differentiate(gradients, needed, arguments)` the form that torch wants of a backward pass."""

    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        arguments = [next(saved) if tensor else other for tensor, other in zip(ctx.is_tensor, ctx.others, strict=True)]
        needed = [index for index, need in enumerate(ctx.needs_input_grad) if need]
        if all(gradient is None for gradient in gradients):
            return (None,) * len(arguments)
        by_index = dict(zip(needed, differentiate(gradients, needed, arguments), strict=True))
        return tuple(by_index.get(index) for index in range(len(arguments)))

    return backward


def _rerun(reference: Callable[..., Any]) -> Callable[..., Sequence[Tensor | None]]:
    """Differentiate by running the reference once more with gradients on; nothing is kept between the passes."""

    def differentiate(gradients: Sequence[Tensor | None], needed: list[int], arguments: list[Any]) -> Any:
        again = [
            a.detach().requires_grad_(i in needed) if isinstance(a, Tensor) else a for i, a in enumerate(arguments)
        ]
        with torch.enable_grad():
            result = reference(*again)
        outputs = result if isinstance(result, tuple) else (result,)
        pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
        return torch.autograd.grad(
            [output for output, _ in pairs],
            [again[index] for index in needed],
            [gradient for _, gradient in pairs],
            allow_unused=True,
        )

    return differentiate


def _register_gradient(
    name: str, schema: str, gradient: Callable[..., dict[int, Tensor]]
) -> Callable[..., Sequence[Tensor | None]]:
    """Register `hsm::name_backward`, which returns one new tensor for each needed input."""

    def run(output_gradient: Tensor, needed: list[int], *inputs: Any) -> list[Tensor]:
        found = gradient(output_gradient, needed, *inputs)
        return [_no_alias(found[i].to(inputs[i].dtype).contiguous(), (output_gradient, *inputs)) for i in needed]

    def fake(output_gradient: Tensor, needed: list[int], *inputs: Any) -> list[Tensor]:
        return [inputs[i].new_empty(inputs[i].shape) for i in needed]

    arguments = schema[schema.index("(") + 1 : schema.index(") ->")]
    operator = torch.library.custom_op(
        f"hsm::{name}_backward",
        run,
        mutates_args=(),
        schema=f"(Tensor output_gradient, int[] needed, {arguments}) -> Tensor[]",
    )
    operator.register_fake(fake)

    def differentiate(gradients: Sequence[Tensor | None], needed: list[int], arguments: list[Any]) -> Any:
        return operator(gradients[0], needed, *arguments)

    return differentiate
