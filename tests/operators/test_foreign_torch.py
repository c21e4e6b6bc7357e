"""Operators that somebody else registered with PyTorch: exported once they are given a body."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import hsm_export
from hsm_export import OperatorError, operator_for
from hsm_export.errors import BadInputError
from hsm_export.exporting.bodies import one_node_model
from hsm_operators import find
from hsm_operators.registry import find_torch

LIBRARY = torch.library.Library("elsewhere", "DEF")


def _define(name: str, schema: str, function: Any) -> Any:
    """Register an operator as another package would: with kernels that nobody can trace."""
    LIBRARY.define(f"{name}{schema}")
    LIBRARY.impl(name, function, "CPU")
    torch.library.register_fake(f"elsewhere::{name}", lambda x, *rest, **named: torch.empty_like(x))
    return getattr(torch.ops.elsewhere, name)


def _decay(x: Tensor, rate: Tensor, power: int = 2, causal: bool = True, kind: str = "plain") -> Tensor:
    return x * rate**power if causal else x


DECAY = _define("decay", '(Tensor x, Tensor rate, int power=2, bool causal=True, str kind="plain") -> Tensor', _decay)
SWAP = _define("swap", "(Tensor x) -> Tensor", lambda x: x.flip(-1))
for overload in ("one", "two"):
    LIBRARY.define(f"many.{overload}(Tensor x{', int n' if overload == 'two' else ''}) -> Tensor")
TWICE = _define("twice", "(Tensor x, Tensor? bias=None) -> Tensor", lambda x, bias=None: 2 * x)


class Uses(nn.Module):
    """A module that calls one of them."""

    def __init__(self, call: Any) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.rand(6))
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.rate) + 1


def test_without_a_body_the_refusal_names_the_way(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="operator elsewhere::swap has no ONNX counterpart") as caught:
        hsm_export.export(Uses(lambda x, rate: SWAP(x)), (torch.randn(2, 5, 6),), tmp_path / "m.onnx")
    assert 'hsm_export.operator_for("elsewhere::swap", "x[…] -> y[…]", function)' in (caught.value.hint or "")


def _plain(x: Tensor, rate: Tensor, *, power: int, causal: bool) -> Tensor:
    return x * rate**power if causal else x


def decay() -> Any:
    """Give the operator its body; `kind` stays at its default."""
    return operator_for("elsewhere::decay", "x[B,T,D], rate[D] -> y[B,T,D]", _plain)


def test_with_a_function_it_is_exported_and_validated(tmp_path: Path) -> None:
    spec = decay()
    assert (spec.qualified_name, spec.torch_name) == ("elsewhere::Decay", "decay")
    assert [(a.name, a.type, a.is_flag) for a in spec.attributes] == [("power", "int", False), ("causal", "int", True)]
    assert find_torch(torch.ops.elsewhere.decay.default) is spec
    module = Uses(lambda x, rate: DECAY(x, rate, power=3)).eval()
    path = tmp_path / "m.onnx"
    result = hsm_export.export(module, (torch.randn(2, 5, 6),), path, precision="fp16")
    assert result.mixers == {"Decay": "elsewhere::Decay"}
    checked = hsm_export.validate(path, module, runtimes=["ort", "onnx-reference"], shapes=[(2, 7)])
    assert checked.passed, checked.summary


def test_an_argument_that_the_node_cannot_say_is_refused(tmp_path: Path) -> None:
    decay()
    module = Uses(lambda x, rate: DECAY(x, rate, kind="other"))
    with pytest.raises(BadInputError, match="called with kind = 'other', which its node cannot say"):
        hsm_export.export(module, (torch.randn(2, 5, 6),), tmp_path / "m.onnx")
    ignoring = operator_for("elsewhere::decay", "x[B,T,D], rate[D] -> y[B,T,D]", _plain, ignored=["kind"])
    assert ignoring.ignored == ("kind",)
    hsm_export.export(module, (torch.randn(2, 5, 6),), tmp_path / "m.onnx")


def test_a_body_may_be_written() -> None:
    spec = operator_for("elsewhere::swap", "x[B,D] -> y[B,D]", body="y = Neg (x)", name="Backwards")
    assert find("elsewhere", "Backwards") is spec
    (function,) = one_node_model(spec).functions
    assert [node.op_type for node in function.node] == ["Neg"]
    assert isinstance(function, onnx.FunctionProto)


@pytest.mark.parametrize(
    ("name", "signature", "settings", "message"),
    [
        ("elsewhere::absent", "x[B] -> y[B]", {"body": "y = Neg (x)"}, "PyTorch knows no operator elsewhere::absent"),
        ("nowhere", "x[B] -> y[B]", {"body": "y = Neg (x)"}, "PyTorch knows no operator nowhere"),
        ("elsewhere::swap", "z[B] -> y[B]", {"body": "y = Neg (z)"}, "has no argument z; its arguments are x"),
        ("elsewhere::swap", "x[B] -> y[B], w[B]", {"body": "y = Neg (x)"}, "returns 1 tensors, its signature has 2"),
        ("elsewhere::swap", "x[B] -> y[B]", {}, "needs its maths"),
        ("aten::relu_", "self[B] -> y[B]", {"body": "y = Relu (self)"}, "changes its arguments"),
        ("elsewhere::many", "x[B] -> y[B]", {"body": "y = Neg (x)"}, "is one of several: elsewhere::many.one"),
    ],
)
def test_what_does_not_fit_the_operator_is_refused(
    name: str, signature: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(OperatorError, match=message):
        operator_for(name, signature, **settings)


def test_an_overload_may_be_named() -> None:
    spec = operator_for("elsewhere::many.two", "x[B] -> y[B]", lambda x, n: x * n)
    assert (spec.name, spec.torch_name, [a.name for a in spec.attributes]) == ("ManyTwo", "many.two", ["n"])
    assert find_torch(torch.ops.elsewhere.many.two) is spec


def test_an_optional_tensor_must_be_left_out(tmp_path: Path) -> None:
    operator_for("elsewhere::twice", "x[B,T,D] -> y[B,T,D]", lambda x: 2 * x)
    module = Uses(lambda x, rate: TWICE(x))
    hsm_export.export(module, (torch.randn(2, 5, 6),), tmp_path / "m.onnx")
    with pytest.raises(BadInputError, match="called with bias"):
        hsm_export.export(Uses(lambda x, rate: TWICE(x, rate)), (torch.randn(2, 5, 6),), tmp_path / "m.onnx")
