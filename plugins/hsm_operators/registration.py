"""Registers an operator with torch from its reference maths, under any namespace.

An operator stays one node in the graphs of `torch.export` and `torch.compile`. A hand-written gradient is an operator
too, so it need not be traceable either: it may look at values, such as which experts were chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .fused_gradient import FusedGradient
from .kernels import prefer_kernel
from .operator import BOOL, DOMAIN, FLOAT, INT64, UINT8, Attribute, Operator, Port
from .precision import accumulator
from .sizes import bound_sizes, require_rules

# What defines each operator: it is forgotten with its library, which lets another one take its place.
_libraries: dict[str, torch.library.Library] = {}
_WHOLE = {INT64: torch.int64, BOOL: torch.bool, UINT8: torch.uint8}
_SCHEMA_TYPES = {"int": "int", "ints": "int[]", "float": "float"}


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
    applies: Callable[[list[int], list[Any]], bool] = lambda needed, arguments: True,
    fused: FusedGradient | None = None,
) -> Any:
    """Register `hsm::name`, or an operator of another namespace, and return the operator to call.

    Args:
        name: the operator's name; without a namespace it is one of ours.
        schema: its torch schema without the name, such as "(Tensor x, int[] shifts) -> Tensor".
        reference: maths on plain torch operations. A fused kernel computes the operator instead where `use_kernels`
            allows it; the backward pass is the reference's but where `fused` takes the call.
        fake: shapes and dtypes of the outputs for tracing.
        gradient: `gradient(gradient of the first output, needed, *inputs)` returns the gradients of at least the inputs
            whose indices are in `needed`, and `name_backward` is registered for it. Without it, and where another
            output has a gradient, the reference must be differentiable: the backward pass runs it once more, with
            gradients on.
        applies: `applies(needed, inputs)` says from shapes whether `gradient` does what is needed.
        fused: the same in Triton, which goes before `gradient` where it applies.
    """
    qualified = name if "::" in name else f"{DOMAIN}::{name}"
    forward = _without_gradients(prefer_kernel(qualified, reference))
    operator = _define(qualified, schema, forward, fake)
    differentiate = _rerun(reference)
    if gradient or fused:
        written = _register_gradient(qualified, schema, gradient, fused)
        differentiate = _choose(written, _either(applies if gradient else None, fused), differentiate)
    torch.library.register_autograd(
        qualified, _backward_by(differentiate), setup_context=_remember_inputs, lib=_libraries[qualified]
    )
    return operator


def _define(qualified: str, schema: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define an operator that changes no input and returns none, and return what calls it.

    Not by `torch.library.custom_op`: every call of such an operator goes through PyTorch's compiler, which takes
    seconds to load.
    """
    namespace, _, name = qualified.partition("::")
    if qualified in _libraries:
        _libraries.pop(qualified)._destroy()
    library = _libraries[qualified] = torch.library.Library(namespace, "FRAGMENT")
    library.define(f"{name}{schema}", tags=torch.Tag.pt2_compliant_tag)
    # For all devices; tools ask for CUDA's key whether an operator runs there.
    for key in ("CompositeExplicitAutograd", "CUDA"):
        library.impl(name, function, key)
    torch.library.register_fake(qualified, fake, lib=library)
    base, _, overload = name.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), base), overload or "default")


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
    name: str, schema: str, gradient: Callable[..., dict[int, Tensor]] | None, fused: FusedGradient | None
) -> Callable[..., Sequence[Tensor | None]]:
    """Register `name_backward`, which returns one new tensor for each needed input."""

    def run(output_gradient: Tensor, needed: list[int], *inputs: Any) -> list[Tensor]:
        compute = fused if fused and fused.applies(needed, inputs) else gradient
        require(compute is not None, f"{name} has no gradient that takes this call")
        found = compute(output_gradient, needed, *inputs)  # type: ignore[misc]
        return [_no_alias(found[i].to(inputs[i].dtype).contiguous(), (output_gradient, *inputs)) for i in needed]

    def fake(output_gradient: Tensor, needed: list[int], *inputs: Any) -> list[Tensor]:
        return [inputs[i].new_empty(inputs[i].shape) for i in needed]

    arguments = schema[schema.index("(") + 1 : schema.index(") ->")]
    operator = _define(
        f"{name}_backward", f"(Tensor output_gradient, int[] needed, {arguments}) -> Tensor[]", run, fake
    )

    def differentiate(gradients: Sequence[Tensor | None], needed: list[int], arguments: list[Any]) -> Any:
        return operator(gradients[0], needed, *arguments)

    return differentiate


def _either(
    applies: Callable[[list[int], list[Any]], bool] | None, fused: FusedGradient | None
) -> Callable[[list[int], list[Any]], bool]:
    """Return what says whether one of the two gradients that were written does what is needed."""

    def decide(needed: list[int], arguments: list[Any]) -> bool:
        if applies and applies(needed, arguments):
            return True
        return fused is not None and fused.applies(needed, arguments)

    return decide


def _choose(
    written: Callable[..., Sequence[Tensor | None]],
    applies: Callable[[list[int], list[Any]], bool],
    otherwise: Callable[..., Sequence[Tensor | None]],
) -> Callable[..., Sequence[Tensor | None]]:
    """Differentiate by the gradient that was written where it applies: to the first output alone."""

    def differentiate(gradients: Sequence[Tensor | None], needed: list[int], arguments: list[Any]) -> Any:
        first_alone = gradients[0] is not None and all(gradient is None for gradient in gradients[1:])
        chosen = written if first_alone and applies(needed, arguments) else otherwise
        return chosen(gradients, needed, arguments)

    return differentiate


def register_operator(operator: Operator, function: Callable[..., Any]) -> Any:
    """Register an operator with torch from its specification and its maths, and return what to call.

    As in its body, floats of type T are computed in float32, or in float64 where they are float64.

    Args:
        operator: the specification; it says types and shapes.
        function: takes the inputs in order and the attributes by name, and returns the output, or a tuple of them.
    """
    return register(
        operator.torch_qualified_name,
        torch_schema(operator),
        lambda *arguments: computed(operator, function, arguments),
        lambda *arguments: _shaped(operator, arguments),
    )


def torch_schema(operator: Operator) -> str:
    """Return an operator's torch schema without the name: its inputs, then its attributes."""
    inputs = [f"Tensor {port.name}" for port in operator.inputs]
    attributes = [f"{_schema_type(attribute)} {attribute.name}" for attribute in operator.attributes]
    outputs = ", ".join("Tensor" for _ in operator.outputs)
    result = outputs if len(operator.outputs) == 1 else f"({outputs})"
    return f"({', '.join(inputs + attributes)}) -> {result}"


def _schema_type(attribute: Attribute) -> str:
    return "bool" if attribute.is_flag else _SCHEMA_TYPES[attribute.type]


def computed(operator: Operator, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Check the arguments, run the maths in the accumulator's type, and give the results their own."""
    inputs, attributes = _bound(operator, arguments)
    own = own_type(operator, inputs)
    for port, tensor in zip(operator.inputs, inputs, strict=True):
        _check_type(operator, port, tensor, own)
    sizes = bound_sizes(operator, [tuple(tensor.shape) for tensor in inputs], attributes)
    require_rules(operator, sizes)
    wide = [
        tensor.to(accumulator(own)) if port.type in ("T", FLOAT) else tensor
        for port, tensor in zip(operator.inputs, inputs, strict=True)
    ]
    result = function(*wide, **attributes)
    results = result if isinstance(result, (tuple, list)) else (result,)
    require(
        len(results) == len(operator.outputs) and all(isinstance(item, Tensor) for item in results),
        f"{operator.qualified_name}: its function must return {len(operator.outputs)} tensors, "
        f"{', '.join(port.name for port in operator.outputs)}; it returned {_described(result)}",
    )
    outputs = [
        _finished(operator, port, item, own, sizes) for port, item in zip(operator.outputs, results, strict=True)
    ]
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _described(result: Any) -> str:
    if isinstance(result, (tuple, list)):
        return f"a {type(result).__name__} of {len(result)}"
    return f"a {type(result).__name__}"


def _bound(operator: Operator, arguments: Sequence[Any]) -> tuple[list[Tensor], dict[str, Any]]:
    """Split what torch calls an operator with into its inputs and its attributes."""
    count = len(operator.inputs)
    names = [attribute.name for attribute in operator.attributes]
    return list(arguments[:count]), dict(zip(names, arguments[count:], strict=True))


def own_type(operator: Operator, inputs: Sequence[Tensor]) -> torch.dtype:
    """Return T: the type of the first input that has it."""
    found = (tensor.dtype for port, tensor in zip(operator.inputs, inputs, strict=True) if port.type == "T")
    return next(found, torch.float32)


def type_of(port: Port, own: torch.dtype) -> torch.dtype:
    """Return the torch type of a port: sums are float64 where all else is."""
    if port.type == "T":
        return own
    return accumulator(own) if port.type == FLOAT else _WHOLE[port.type]


def _check_type(operator: Operator, port: Port, tensor: Tensor, own: torch.dtype) -> None:
    # Under autocast the tensors of type T may differ; all of them are computed in one type anyway.
    good = tensor.is_floating_point() if port.type in ("T", FLOAT) else tensor.dtype == type_of(port, own)
    wanted = "floating-point" if port.type in ("T", FLOAT) else str(type_of(port, own)).removeprefix("torch.")
    require(good, f"{operator.name}: {port.name} must be {wanted}, got {tensor.dtype}")


def _finished(operator: Operator, port: Port, result: Tensor, own: torch.dtype, sizes: dict[str, Any]) -> Tensor:
    """Give a result its type and check its shape."""
    shape = tuple(sizes[name] for name in port.shape)
    require(
        tuple(result.shape) == shape,
        f"{operator.qualified_name}: its function returned {port.name} of shape {tuple(result.shape)}; "
        f"({','.join(port.shape)}) is {shape} here",
    )
    return result.to(type_of(port, own)).contiguous()


def _shaped(operator: Operator, arguments: tuple[Any, ...]) -> Any:
    """Return empty outputs: what a trace knows of a call. Sizes may be symbols, so nothing is compared."""
    inputs, _ = _bound(operator, arguments)
    own = own_type(operator, inputs)
    sizes: dict[str, Any] = {}
    for port, tensor in zip(operator.inputs, inputs, strict=True):
        require(
            tensor.dim() == len(port.shape),
            f"{operator.name}: {port.name} must be ({','.join(port.shape)}), got shape {tuple(tensor.shape)}",
        )
        for name, size in zip(port.shape, tensor.shape, strict=True):
            sizes.setdefault(name, size)
    outputs = [
        inputs[0].new_empty([sizes[name] for name in port.shape], dtype=type_of(port, own)) for port in operator.outputs
    ]
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
