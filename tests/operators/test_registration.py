"""Every operator: the definition, gradients, torch's own checks, and export with dynamic sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.operators.arguments import NAMES, OPERATOR_OF, arguments, as_arrays, as_tuple, overloaded
from torch import Tensor

from hsm_models import ops
from tests import oracles

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
pytestmark = pytest.mark.usefixtures("reference_maths")
EVERY = pytest.mark.parametrize("name", NAMES)


def _floats(found: dict[str, Any]) -> dict[str, Tensor]:
    return {key: v for key, v in found.items() if isinstance(v, Tensor) and v.is_floating_point()}


@EVERY
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_oracle_and_keeps_dtypes(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    found = arguments(name, generator, dtype)
    results = as_tuple(getattr(ops, name)(**found))
    for result, truth in zip(results, as_tuple(getattr(oracles, name)(**as_arrays(found))), strict=True):
        specified = ~np.isnan(truth)
        unit = torch.finfo(result.dtype).eps * np.abs(truth[specified]).max()
        assert np.abs(result.double().numpy() - truth)[specified].max() <= 16 * unit
    assert results[0].dtype == dtype
    assert all(result.is_contiguous() for result in results)


@EVERY
@pytest.mark.parametrize("length", [1, 6])
def test_gradients(name: str, length: int, generator: torch.Generator) -> None:
    found = arguments(name, generator, length=length)
    leaves = {key: value.requires_grad_() for key, value in _floats(found).items()}
    valid = torch.arange(length) < found.get("lengths", torch.full((2,), length))[:, None]

    def specified(*values: Tensor) -> tuple[Tensor, ...]:
        y, *rest = as_tuple(getattr(ops, name)(**found | dict(zip(leaves, values, strict=True))))
        return (y[valid], *rest)

    assert torch.autograd.gradcheck(specified, tuple(leaves.values()))


@EVERY
def test_each_input_alone_gets_the_same_gradient(name: str, generator: torch.Generator) -> None:
    found = arguments(name, generator)
    leaves = {key: value.requires_grad_() for key, value in _floats(found).items()}
    together = torch.autograd.grad(as_tuple(getattr(ops, name)(**found))[0].square().sum(), leaves.values())
    for key, expected in zip(leaves, together, strict=True):
        apart = {k: v.detach() if isinstance(v, Tensor) else v for k, v in found.items()}
        leaf = apart[key].requires_grad_()
        (alone,) = torch.autograd.grad(as_tuple(getattr(ops, name)(**apart))[0].square().sum(), leaf)
        torch.testing.assert_close(alone, expected)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gradients_are_close_to_double(
    name: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    half = arguments(name, generator, dtype)
    double = {k: v.detach().double() if k in _floats(half) else v for k, v in half.items()}
    gradients = []
    for found in (half, double):
        leaves = [value.requires_grad_() for value in _floats(found).values()]
        loss = as_tuple(getattr(ops, name)(**found))[0].double().sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    for low, high in zip(*gradients, strict=True):
        assert (low - high).abs().max() <= 8 * torch.finfo(dtype).eps * max(high.abs().max(), 1)


# The first of a folder: the others are registered by the same code.
FIRST = {getattr(ops, name).__module__: name for name in reversed(NAMES)}.values()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if dtype == torch.float32 and name in FIRST else pytest.mark.slow)
        for name in NAMES
        for dtype in (torch.float32, torch.float16)
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_passes_the_checks_of_torch(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    found = arguments(name, generator, dtype)
    for value in _floats(found).values():
        value.requires_grad_()
    operator, positional = overloaded(name, found)
    torch.library.opcheck(operator, positional)


class _One(torch.nn.Module):
    """A module of one operator, whose attributes are fixed."""

    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        super().__init__()
        self.name, self.attributes = name, attributes

    def forward(self, tensors: dict[str, Tensor]) -> Any:
        return getattr(ops, self.name)(**tensors, **self.attributes)


@EVERY
def test_exports_as_one_node_with_dynamic_batch_and_length(name: str, generator: torch.Generator) -> None:
    found = arguments(name, generator, batch=2, length=5)
    tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    attributes = {key: value for key, value in found.items() if key not in tensors}
    named = {letter: torch.export.Dim(name) for letter, name in (("B", "batch"), ("T", "length"), ("C", "capacity"))}
    named["P"] = torch.export.Dim("distances")
    dimensions = {
        port.name: {axis: named[dim] for axis, dim in enumerate(port.shape) if dim in named}
        for port in OPERATOR_OF[name].inputs
    }
    program = torch.export.export(_One(name, attributes), (tensors,), dynamic_shapes=(dimensions,))
    calls = [node for node in program.graph.nodes if node.op == "call_function" and "hsm" in str(node.target)]
    assert [str(node.target) for node in calls] == [f"hsm.{name}.default"]
    other = arguments(name, generator, batch=3, length=9)
    expected = getattr(ops, name)(**other)
    other_tensors = {key: value for key, value in other.items() if isinstance(value, Tensor)}
    torch.testing.assert_close(program.module()(other_tensors), expected, rtol=0, atol=0)
