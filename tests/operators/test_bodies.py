"""Bodies derived from PyTorch: what they compute, what they hold, and what cannot be derived."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from tests.operators.samples import conv_state, gated_linear, scale, taps, window_mean
from tests.shared import diagonal
from torch import Tensor, nn
from torch._higher_order_ops.associative_scan import associative_scan

from hsm_export import Rule, operator
from hsm_export.errors import BadInputError
from hsm_export.exporting.assembling import finished_graph
from hsm_export.exporting.bodies import one_node_model
from hsm_export.exporting.source import resolve
from hsm_operators import Operator

TORCH_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NUMPY_TYPES: dict[str, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def inputs_of(spec: Operator, sizes: Mapping[str, int], precision: str = "fp32", seed: int = 0) -> dict[str, Tensor]:
    """Return random inputs; lengths are unequal."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for port in spec.inputs:
        shape = [sizes[name] for name in port.shape]
        if port.type == "tensor(int64)":
            found[port.name] = torch.randint(0, sizes["T"] + 1, shape, generator=generator)
        else:
            dtype = TORCH_TYPES[precision] if port.type == "T" else torch.float32
            found[port.name] = torch.randn(shape, generator=generator).to(dtype)
    return found


def run_body(model: onnx.ModelProto, inputs: Mapping[str, Tensor], precision: str = "fp32") -> list[np.ndarray]:
    """Run a model of one node in onnx's evaluator."""
    from onnx.reference import ReferenceEvaluator

    low = NUMPY_TYPES[precision]
    feed = {
        name: tensor.float().numpy().astype(low if tensor.dtype == TORCH_TYPES[precision] else np.float32)
        if tensor.is_floating_point()
        else tensor.numpy()
        for name, tensor in inputs.items()
    }
    return [np.asarray(array, np.float32) for array in ReferenceEvaluator(model).run(None, feed)]


def _valid(array: Any, lengths: Tensor | None) -> Any:
    """Return the tokens that mean something."""
    if lengths is None:
        return np.asarray(array)
    keep = np.arange(array.shape[1]) < lengths.numpy()[:, None]
    return np.where(keep.reshape(*keep.shape, *(1,) * (array.ndim - 2)), array, 0)


CASES = {
    "window_mean": (window_mean, {"span": 3}, {"D": 6}),
    "window_mean of one": (window_mean, {"span": 1}, {"D": 6}),
    "taps": (taps, {"dilations": [2, 5], "causal": True, "scale": 0.5}, {"D": 6, "K": 2}),
    "taps backwards": (taps, {"dilations": [1], "causal": False, "scale": -1.5}, {"D": 6, "K": 1}),
    "gated_linear": (gated_linear, {}, {"H": 2, "K": 4, "V": 3}),
    "conv_state": (conv_state, {"gain": 2}, {"D": 5, "K": 4, "R": 3}),
    "scale": (scale, {"factor": 7}, {"D": 5}),
}


@pytest.mark.parametrize(("case", "precision"), diagonal(tuple(CASES), ("fp32", "fp16", "bf16")))
def test_a_body_computes_what_the_function_computes(case: str, precision: str) -> None:
    function, attributes, sizes = CASES[case]
    spec = function.operator
    model = one_node_model(spec, attributes, precision)
    onnx.checker.check_model(model, full_check=True)
    for batch, length in ((1, 1), (2, 7), (3, 13)):
        inputs = inputs_of(spec, {**sizes, "B": batch, "T": length}, precision)
        expected = function(**inputs, **attributes)
        expected = expected if isinstance(expected, tuple) else (expected,)
        found = run_body(model, inputs, precision)
        lengths = inputs.get("lengths")
        epsilon = torch.finfo(TORCH_TYPES[precision]).eps
        for port, a, b in zip(spec.outputs, found, expected, strict=True):
            right = b.float().numpy()
            if "T" in port.shape:
                a, right = _valid(a, lengths), _valid(right, lengths)
            limit = (8 * epsilon if port.type == "T" else 1e-5) * max(1.0, float(np.abs(right).max(initial=0)))
            assert np.abs(a - right).max(initial=0) <= limit


def test_numbers_stay_attributes_where_the_code_allows_it() -> None:
    model = one_node_model(window_mean.operator, {"span": 3})
    (function,) = model.functions
    assert function.name == "WindowMean"
    references = {a.ref_attr_name for node in function.node for a in node.attribute if a.ref_attr_name}
    assert references == {"span"}
    # So the same body serves another number.
    (attribute,) = [a for a in model.graph.node[0].attribute if a.name == "span"]
    attribute.i = 9
    inputs = inputs_of(window_mean.operator, {"B": 2, "T": 11, "D": 4})
    (found,) = run_body(model, inputs)
    np.testing.assert_allclose(found, window_mean(**inputs, span=9).numpy(), rtol=1e-5, atol=1e-5)


def test_the_body_of_an_open_number_serves_one_and_zero_too() -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for gain in (1, 3, 0, 2):
                x = x + scaled(x, gain=gain)
            return x

    @operator("samples::OpenGain", "x[B,T,D] -> y[B,T,D]")
    def scaled(x: Tensor, *, gain: int) -> Tensor:
        return torch.tanh(x) * gain

    source = resolve(Several(), (torch.randn(2, 3, 4),))
    model, _ = finished_graph(source, "fp32")
    assert [function.name for function in model.functions.values()] == ["OpenGain"]
    assert {node.op_type for node in model.graph if node.domain == "samples"} == {"OpenGain"}


def test_bodies_are_the_same_in_every_run_and_their_nodes_have_names() -> None:
    first, second = (one_node_model(gated_linear.operator).functions[0] for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()
    names = [node.name for node in first.node]
    assert all(names) and len(set(names)) == len(names)


def test_what_runtimes_ask_of_a_scan() -> None:
    (function,) = one_node_model(gated_linear.operator).functions
    (scan,) = [node for node in function.node if node.op_type == "Scan"]
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    for value in (*body.input, *body.output):
        assert value.type.tensor_type.elem_type and value.type.tensor_type.HasField("shape"), value.name
    # What depends on weights and tokens alone is computed before the loop, for all tokens at once.
    assert {"Tanh", "Sigmoid"} <= {node.op_type for node in function.node}
    assert not {"Tanh", "Sigmoid"} & {node.op_type for node in body.node}
    assert not {node.op_type for node in function.node} & {"If", "Loop"}


@pytest.mark.parametrize("case", ["gated_linear", "conv_state"])
def test_steps_chunks_and_the_whole_are_equal_in_torch_and_in_onnx(case: str) -> None:
    function, attributes, sizes = CASES[case]
    spec = function.operator
    (state,) = spec.states
    model = one_node_model(spec, attributes)
    inputs = inputs_of(spec, {**sizes, "B": 2, "T": 9}, seed=3)
    if "lengths" in inputs:
        inputs["lengths"] = torch.tensor([9, 9])
    whole = function(**inputs, **attributes)

    def chunk(start: int, stop: int, past: Tensor) -> dict[str, Tensor]:
        part = {
            port.name: inputs[port.name].narrow(port.shape.index("T"), start, stop - start)
            if "T" in port.shape
            else inputs[port.name]
            for port in spec.inputs
        }
        if "lengths" in part:
            part["lengths"] = torch.full((2,), stop - start)
        return {**part, state.past: past}

    for edges in ([0, 4, 9], list(range(10))):
        for run in ("torch", "onnx"):
            past, outputs = inputs[state.past], []
            for start, stop in itertools.pairwise(edges):
                part = chunk(start, stop, past)
                if run == "torch":
                    y, past = function(**part, **attributes)
                else:
                    y, past = map(torch.from_numpy, run_body(model, part))
                outputs.append(y)
            joined = torch.cat(outputs, 1)
            if run == "torch":
                assert torch.equal(joined, whole[0]) and torch.equal(past, whole[1])
            torch.testing.assert_close(joined, whole[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(past, whole[1], rtol=1e-5, atol=1e-5)


def test_rows_stop_at_their_length_whatever_stands_behind_it() -> None:
    spec = gated_linear.operator
    inputs = inputs_of(spec, {"B": 3, "T": 6, "H": 2, "K": 4, "V": 3})
    inputs["lengths"] = torch.tensor([4, 0, 6])
    short = {n: t[:, :4] if "T" in spec.port(n).shape else t for n, t in inputs.items()}
    short["lengths"] = torch.tensor([4, 0, 4])
    expected = gated_linear(**short)
    for name in ("q", "k", "v", "gate"):
        inputs[name][0, 4:] = torch.nan
    for tensor in inputs.values():
        if tensor.is_floating_point():
            tensor.requires_grad_()
    y, state = gated_linear(**inputs)
    assert torch.equal(y[0, :4], expected[0][0]) and torch.equal(state[:2], expected[1][:2])
    gradients = torch.autograd.grad(y[0, :4].sum() + state.sum(), [inputs["bias"], inputs["k"], inputs["state"]])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    model = one_node_model(spec)
    onnx_y, onnx_state = run_body(model, {name: tensor.detach() for name, tensor in inputs.items()})
    np.testing.assert_allclose(onnx_y[0, :4], y.detach()[0, :4].numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(onnx_state, state.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_only_what_needs_the_state_is_in_the_loop() -> None:
    @operator("samples::Recurrent", "x[B,T,D], a[D,E], b[E], s: float32[B,E] -> y[B,T,E], s", step=True)
    def recurrent(s: Tensor, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        drive = torch.tanh(x @ a + b) * torch.where(b > 0, 2.0, 0.5)
        decayed = s * torch.sigmoid(drive)
        return decayed + drive, torch.relu(drive) + decayed * x.mean(-1, keepdim=True)

    model = one_node_model(recurrent.operator)
    (function,) = model.functions
    (scan,) = [node for node in function.node if node.op_type == "Scan"]
    inside = [node.op_type for node in next(a.g for a in scan.attribute if a.name == "body").node]
    assert not set(inside) & {"MatMul", "Tanh", "Sigmoid", "Where", "Relu"}
    assert {"Add", "Mul"} <= set(inside)
    for length in (1, 8):
        inputs = inputs_of(recurrent.operator, {"B": 3, "T": length, "D": 5, "E": 4})
        for a, b in zip(run_body(model, inputs), recurrent(**inputs), strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-5)


def test_other_operators_in_a_function_are_inlined() -> None:
    @operator("samples::Nested", "x[B,T,D], gain[D] -> y[B,T,D]")
    def nested(x: Tensor, gain: Tensor) -> Tensor:
        return window_mean(x, gain, span=2) + 1.0

    model = one_node_model(nested.operator)
    (function,) = model.functions
    assert {node.domain for node in function.node} == {""}
    inputs = inputs_of(nested.operator, {"B": 2, "T": 5, "D": 3})
    np.testing.assert_allclose(run_body(model, inputs)[0], nested(**inputs).numpy(), rtol=1e-5, atol=1e-5)


def test_torch_scan_becomes_a_scan() -> None:
    from torch._higher_order_ops.scan import scan

    @operator("samples::TorchScan", "x[B,T,D], s: float32[B,D] -> y[B,T,D], s")
    def scanned(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        def step(carried: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
            carried = carried * 0.5 + token
            return carried, carried * 2.0

        last, outputs = scan(step, s, x.transpose(0, 1), dim=0)
        return outputs.transpose(0, 1), last

    model = one_node_model(scanned.operator)
    assert "Scan" in {node.op_type for node in model.functions[0].node}
    for length in (1, 6):
        inputs = inputs_of(scanned.operator, {"B": 2, "T": length, "D": 3})
        for a, b in zip(run_body(model, inputs), scanned(**inputs), strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-5)


def test_sizes_that_the_code_fixes_are_held_by_the_body() -> None:
    @operator("samples::LoopOverHeads", "x[B,T,H] -> y[B,T,H]")
    def loop_over_heads(x: Tensor) -> Tensor:
        parts = [x[..., head] * (head + 1) for head in range(x.shape[2])]
        return torch.stack(parts, -1)

    model = one_node_model(loop_over_heads.operator, sizes={"H": 3})
    inputs = inputs_of(loop_over_heads.operator, {"B": 2, "T": 5, "H": 3})
    np.testing.assert_allclose(run_body(model, inputs)[0], loop_over_heads(**inputs).numpy(), rtol=1e-6)
    with pytest.raises(BadInputError, match="works for one size of H only once it is traced"):
        one_node_model(loop_over_heads.operator)


PARAMETER = nn.Parameter(torch.ones(3))


def _loop_over_tokens(x: Tensor) -> Tensor:
    return torch.stack([x[:, token] for token in range(x.shape[1])], 1)


def _scans_associatively(x: Tensor) -> Tensor:
    return associative_scan(torch.add, x, dim=1, combine_mode="generic")


def _looks_at_values(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def _captures_a_parameter(x: Tensor) -> Tensor:
    return x * PARAMETER


def _captures_much(x: Tensor) -> Tensor:
    return x + MUCH.sum()


MUCH = torch.ones(1 << 19)


def _branches_on_length(x: Tensor) -> Tensor:
    return x * 2 if x.shape[1] > 4 else x


def _lacks_an_operator(x: Tensor) -> Tensor:
    return torch.special.bessel_j0(x)


def _fails(x: Tensor) -> Tensor:
    raise KeyError("nothing")


@pytest.mark.parametrize(
    ("function", "message", "hint"),
    [
        (_loop_over_tokens, "its function works for one size of T only", "step="),
        (_scans_associatively, "calls torch's associative_scan, which no body can be derived from", "step="),
        (_looks_at_values, "takes a decision that depends on the values", "torch.where"),
        (_captures_a_parameter, r"captures a parameter of shape \(3,\)", "pass it as an input"),
        (_captures_much, "captures a tensor of 2,097,152 bytes", "pass it as an input"),
        (_branches_on_length, "takes another way where T = 1", "one way serves all sizes"),
        (_lacks_an_operator, "bessel_j0 has no ONNX counterpart", "operator_for"),
        (_fails, "cannot be traced: KeyError", None),
    ],
)
def test_what_cannot_be_derived_says_why_and_what_to_do(function: Any, message: str, hint: str | None) -> None:
    spec = operator(f"samples::Bad{function.__name__.title().replace('_', '')}", "x[B,T,D] -> y[B,T,D]", function)
    with pytest.raises(BadInputError, match=message) as caught:
        one_node_model(spec.operator, sizes={"D": 3})
    assert hint is None or hint in (caught.value.hint or "")


def test_a_rule_keeps_sizes_out_that_the_function_does_not_serve() -> None:
    spec = operator("samples::LongOnly", "x[B,T,D] -> y[B,T,D]", _branches_on_length, rules=[Rule("T > 4", "T = {T}")])
    model = one_node_model(spec.operator)
    inputs = inputs_of(spec.operator, {"B": 1, "T": 6, "D": 2})
    np.testing.assert_allclose(run_body(model, inputs)[0], 2 * inputs["x"].numpy(), rtol=1e-6)


def test_an_operator_without_function_and_body_says_so() -> None:
    from dataclasses import replace

    from hsm_operators import registry

    spec = registry.register(replace(window_mean.operator, name="Nobody", torch_name="nobody"))
    with pytest.raises(BadInputError, match="samples::Nobody has neither a body nor a function"):
        one_node_model(spec, {"span": 2})
