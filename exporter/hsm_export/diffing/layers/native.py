"""What a single node costs in native precision: PyTorch's own operators, each in several equal ways to round."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import helper

from hsm_operators import Operator, find, part_of
from hsm_operators.registry import register_torch_operators
from hsm_operators.translation import overload_of

from ...dtypes import BY_PRECISION
from ...runtimes.reference_maths import reference_maths
from ...runtimes.torch_module import to_array

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]
Tensors = list["torch.Tensor"]
Attributes = dict[str, Any]
Way = Callable[[list["torch.Tensor"], dict[str, Any]], "torch.Tensor"]

register_torch_operators()

_TYPES = {item.onnx: item.torch for item in BY_PRECISION.values()}
# Orders in which the terms of a product are added, besides torch's own.
_ORDERS = 3
# Elements of a product whose terms are added one by one.
_SEQUENTIAL = 1 << 13


def native_results(node: onnx.NodeProto, inputs: Sequence[Array | None], types: Sequence[int]) -> list[list[Array]]:
    """Run a node in PyTorch in its own precision, in each of its equal ways to round.

    Args:
        node: the node.
        inputs: its inputs in order; None for one that is left out.
        types: their ONNX element types, which floating-point arrays are cast to.

    Returns:
        The results of each way, in the order of the node's outputs; empty when PyTorch has no such operator.
    """
    tensors = [None if array is None else _tensor(array, kind) for array, kind in zip(inputs, types, strict=True)]
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    with reference_maths():
        operator = find(node.domain, node.op_type)
        if operator is not None:
            return _mixer(operator, [item for item in tensors if item is not None], attributes)
        way = _STANDARD.get(node.op_type) if node.domain == "" else None
        if way is None or tensors[0] is None or not tensors[0].is_floating_point():
            return []
        given = [item for item in tensors if item is not None]
        several = _SEVERAL.get(node.op_type, _once)
        return [[to_array(result)] for result in several(given, attributes, way)]


def _mixer(operator: Operator, tensors: Tensors, attributes: Attributes) -> list[list[Array]]:
    """Call an operator in each of its evaluations, then those that its family offers besides."""
    overload = overload_of(operator)
    if overload is None:
        return []
    names = [argument.name for argument in overload._schema.arguments]
    given: dict[str, Any] = dict(zip([port.name for port in operator.inputs], tensors, strict=True))
    given |= {attribute.name: attributes[attribute.name] for attribute in operator.attributes}
    results = []
    for chosen in itertools.product(*operator.evaluations.values()):
        known = given | dict(zip(operator.evaluations, chosen, strict=True))
        results.append(_listed(overload(**{name: known[name] for name in names if name in known})))
    further = part_of(operator, "native")
    if further is not None:
        plain = [torch.from_numpy(to_array(item)) for item in results[0]]
        results += further.evaluations(operator, plain, tensors, attributes)
    return [[to_array(item) for item in result] for result in results]


def _listed(result: Any) -> list[torch.Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def _once(tensors: Tensors, attributes: Attributes, way: Way) -> list[torch.Tensor]:
    return [way(tensors, attributes)]


def _norms(tensors: Tensors, attributes: Attributes, way: Way) -> list[torch.Tensor]:
    """Return a layer normalisation by moments about the mean, and by E[x²] - E[x]², as ONNX Runtime computes it."""
    x = tensors[0].to(torch.promote_types(tensors[0].dtype, torch.float32))
    axes = tuple(range(attributes.get("axis", -1) % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True)
    variance = (x * x).mean(axes, keepdim=True) - mean * mean
    y = (x - mean) / torch.sqrt(variance + attributes.get("epsilon", 1e-5)) * tensors[1]
    y = y + tensors[2] if len(tensors) > 2 else y
    return [way(tensors, attributes), y.to(tensors[0].dtype)]


def _sums(tensors: Tensors, attributes: Attributes, way: Way) -> list[torch.Tensor]:
    """Return a reduction with its terms added in several orders, one of them strictly one after the other."""
    x = tensors[0]
    listed = tensors[1].tolist() if len(tensors) > 1 else attributes.get("axes", [])
    if not listed and attributes.get("noop_with_empty_axes", 0):
        return [x]
    axes = sorted(axis % x.ndim for axis in listed) or list(range(x.ndim))
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    shape = [x.shape[axis] for axis in kept]
    terms = x.permute(*kept, *axes).reshape(*shape, -1)
    if attributes.get("keepdims", 1):
        shape = [1 if axis in axes else extent for axis, extent in enumerate(x.shape)]
    orders = [np.random.default_rng(order).permutation(terms.shape[-1]) for order in range(1, _ORDERS + 1)]
    results = [way([terms], attributes)]
    results += [way([terms[..., torch.from_numpy(order)]], attributes) for order in orders]
    wide = terms.to(torch.promote_types(x.dtype, torch.float32))
    results.append(way([wide], {**attributes, "one by one": True}).to(x.dtype))
    return [result.reshape(shape) for result in results]


def _summed(x: torch.Tensor, attributes: Attributes) -> torch.Tensor:
    """Return the sums over the last dimension."""
    if attributes.get("one by one") and x.shape[-1]:
        # NumPy's, because torch's cumsum keeps doubles.
        return torch.from_numpy(np.add.accumulate(x.numpy(), -1)[..., -1])
    return x.sum(-1)


def _products(tensors: Tensors, attributes: Attributes, way: Way) -> list[torch.Tensor]:
    """Return a matrix product with its terms added in several orders, one of them strictly one after the other."""
    a, b, *rest = tensors
    a = a.mT if attributes.pop("transA", 0) else a
    b = b.mT if attributes.pop("transB", 0) else b
    results = [way([a, b, *rest], attributes)]
    for order in range(1, _ORDERS + 1):
        shuffled = torch.from_numpy(np.random.default_rng(order).permutation(a.shape[-1]))
        results.append(way([a[..., shuffled], b.index_select(max(b.ndim - 2, 0), shuffled), *rest], attributes))
    if a.ndim >= 2 and b.ndim >= 2:
        results.append(_one_by_one(results[0], a, b, rest, attributes))
    return results


def _one_by_one(
    plain: torch.Tensor, a: torch.Tensor, b: torch.Tensor, rest: Tensors, attributes: Attributes
) -> torch.Tensor:
    """Return a product in which some rows' terms were added one after the other: the order that rounds worst.

    Most libraries add in blocks, but not all; the sums are float32, as they are everywhere.
    """
    rows = max(1, min(a.shape[-2], _SEQUENTIAL // max(1, plain.numel() // max(1, plain.shape[-2]))))
    wide = torch.promote_types(a.dtype, torch.float32)
    # In NumPy: so many small operations cost torch's threads more than they compute.
    left, right = a[..., :rows, :].to(wide).numpy(), b.to(wide).numpy()
    total = np.zeros(plain[..., :rows, :].shape, left.dtype)
    for term in range(a.shape[-1]):
        total += left[..., term : term + 1] * right[..., term : term + 1, :]
    first = _finished(torch.from_numpy(total), rest, attributes).to(plain.dtype)
    return torch.cat([first, plain[..., rows:, :]], -2)


def _finished(product: torch.Tensor, rest: Tensors, attributes: Attributes) -> torch.Tensor:
    """Add what Gemm adds to its product."""
    scaled: torch.Tensor = product * attributes.get("alpha", 1.0)
    return scaled + rest[0] * attributes.get("beta", 1.0) if rest else scaled


def _gemm(x: Tensors, attributes: Attributes) -> torch.Tensor:
    return _finished(x[0] @ x[1], x[2:], attributes)


def _layer_norm(x: Tensors, attributes: Attributes) -> torch.Tensor:
    axis = attributes.get("axis", -1) % x[0].ndim
    shape = x[0].shape[axis:]
    bias = x[2] if len(x) > 2 else None
    return torch.nn.functional.layer_norm(x[0], shape, x[1], bias, attributes.get("epsilon", 1e-5))


def _gelu(x: Tensors, attributes: Attributes) -> torch.Tensor:
    return torch.nn.functional.gelu(x[0], approximate=attributes.get("approximate", b"none").decode())


def _lrn(x: Tensors, attributes: Attributes) -> torch.Tensor:
    names = {"size": 1, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    return torch.nn.functional.local_response_norm(x[0], *(attributes.get(key, value) for key, value in names.items()))


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Way:
    return lambda x, attributes: function(x[0])


def _binary(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Way:
    return lambda x, attributes: function(x[0], x[1])


_STANDARD: Mapping[str, Way] = {
    "MatMul": _binary(torch.matmul),
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "Softmax": lambda x, attributes: torch.softmax(x[0], attributes.get("axis", -1)),
    "Gelu": _gelu,
    "LogSoftmax": lambda x, attributes: torch.log_softmax(x[0], attributes.get("axis", -1)),
    "LRN": _lrn,
    "GlobalAveragePool": lambda x, attributes: x[0].mean(tuple(range(2, x[0].ndim)), keepdim=True),
    "Elu": lambda x, attributes: torch.nn.functional.elu(x[0], attributes.get("alpha", 1.0)),
    "Softplus": _unary(torch.nn.functional.softplus),
    "Mish": _unary(torch.nn.functional.mish),
    "ReduceSum": lambda x, attributes: _summed(x[0], attributes),
    "ReduceMean": lambda x, attributes: _summed(x[0], attributes) / x[0].shape[-1],
    "ReduceL1": lambda x, attributes: _summed(x[0].abs(), attributes),
    "ReduceL2": lambda x, attributes: _summed(x[0] * x[0], attributes).sqrt(),
    "ReduceSumSquare": lambda x, attributes: _summed(x[0] * x[0], attributes),
    **{name: _binary(getattr(torch, name.lower())) for name in ("Add", "Sub", "Mul", "Div", "Pow")},
    **{
        name: _unary(getattr(torch, name.lower()))
        for name in ("Sigmoid", "Tanh", "Relu", "Erf", "Exp", "Log", "Sqrt", "Sin", "Cos", "Reciprocal")
    },
}

# Operators that add many terms: right implementations differ in how.
_SEVERAL: Mapping[str, Callable[[Tensors, Attributes, Way], list[torch.Tensor]]] = {
    "MatMul": _products,
    "Gemm": _products,
    "LayerNormalization": _norms,
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare"), _sums),
}


def _tensor(array: Array, kind: int) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    # A mapped file cannot be written to, which torch warns of.
    tensor = torch.from_numpy(np.array(array))
    return tensor.to(_TYPES[kind]) if tensor.is_floating_point() and kind in _TYPES else tensor
