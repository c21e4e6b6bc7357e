"""Causal TaylorShift, fused, against what else computes the same: ONNX Runtime's LinearAttention on explicit features.

With phi(x) = (1, x, all products of two of its numbers), y is the sum over the tokens so far of w·phi(q)·phi(k) times
(v, 1), the first part over the last. Peers: that graph in ONNX Runtime, the operator's own body, and PyTorch with the
scores of all pairs, up to as many tokens as that is sensible. Prompts begin with nothing; a step follows one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
import torch
from onnx import helper

from hsm_operators import make_node

SHAPES = ((8, 16), (4, 32), (8, 64))
LENGTHS = (64, 512, 2048)
FEATURES = "ORT LinearAttention on features"
TORCH = "torch, all pairs"
MOST_PAIRS = 1024  # tokens
PROMPT_BOUND, STEP_BOUND = 15.0, 4.0


def main() -> None:
    """Measure every shape."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    for heads, dim in SHAPES[:1] if quick else SHAPES:
        worst, most = float("inf"), 0.0
        for length in (20,) if quick else LENGTHS:
            ratio = prompt(report, heads, dim, length, quick)
            worst, most = min(worst, ratio), max(most, ratio)
        report.at_least(f"prompts over {FEATURES}, {heads}x{dim}, largest ratio", most, PROMPT_BOUND)
        report.at_least(f"prompts over {FEATURES}, {heads}x{dim}, smallest ratio", worst, 1.0)
        ratio = step(report, heads, dim, 24 if quick else 256, quick)
        report.at_least(f"a step over {FEATURES}, {heads}x{dim}", ratio, STEP_BOUND)
    report.finish()


def prompt(report: common.Report, heads: int, dim: int, length: int, quick: bool) -> float:
    """Check and time prompts; return the time on features over ours."""
    tokens = inputs(heads, dim, length)
    none = no_state(heads, dim)
    calls: dict[str, Any] = {
        "fused": operator(tokens, none, fused=True),
        "body": operator(tokens, none),
        FEATURES: on_features(tokens, none["sums"]),
    }
    reference, native = (definition(tokens, dtype) for dtype in (torch.float64, torch.float32))
    for name, call in calls.items():
        what = f"{name}, H = {heads}, d = {dim}, N = {length}"
        common.check(what, call.result().reshape(native.shape), reference, native, 2 if name == "fused" else 16)
    if length <= MOST_PAIRS:
        calls[TORCH] = all_pairs(tokens)
    times = {name: spread.median for name, spread in common.take_turns(calls, 2 if quick else 7).items()}
    ratios = {f"{name} / fused": times[name] / times["fused"] for name in calls if name != "fused"}
    report.row(heads=heads, dim=dim, length=length, fused_ms=times["fused"] * 1e3, **ratios)
    return times[FEATURES] / times["fused"]


def step(report: common.Report, heads: int, dim: int, before: int, quick: bool) -> float:
    """Check and time a token after a prompt; return the time on features over ours."""
    tokens = inputs(heads, dim, before + 1)
    past = {name: array[:, :-1] for name, array in tokens.items()}
    last = {name: np.ascontiguousarray(array[:, -1:]) for name, array in tokens.items()}
    none = no_state(heads, dim)
    own, other = operator(past, none, fused=True), on_features(past, none["sums"])
    for call in (own, other):
        call()
    state = dict(zip(("state", "norm"), (value.numpy() for value in own.outputs[1:]), strict=True))
    calls: dict[str, Any] = {
        "fused": operator(last, {**none, **state}, fused=True),
        "body": operator(last, {**none, **state}),
        FEATURES: on_features(last, other.outputs[1].numpy()),
    }
    reference, native = (definition(tokens, dtype)[:, -1:] for dtype in (torch.float64, torch.float32))
    for name, call in calls.items():
        what = f"a step of {name}, H = {heads}, d = {dim}"
        common.check(what, call.result().reshape(native.shape), reference, native, 16)
    in_place(calls["fused"])
    times = {name: spread.median for name, spread in common.take_turns(calls, 2 if quick else 11).items()}
    ratios = {f"{name} / fused": times[name] / times["fused"] for name in calls if name != "fused"}
    report.row(heads=heads, dim=dim, step_after=before, fused_us=times["fused"] * 1e6, **ratios)
    return times[FEATURES] / times["fused"]


def inputs(heads: int, dim: int, length: int) -> dict[str, common.Array]:
    """Return q, k and v (1,N,H,d); queries are scaled, so that scores are of about 1."""
    rng = np.random.default_rng(length)
    q, k, v = (common.random(rng, 1, length, heads, dim) for _ in range(3))
    return {"q": q * np.float32(dim**-0.5), "k": k, "v": v}


def no_state(heads: int, dim: int) -> dict[str, common.Array]:
    """Return the operator's state before the first token, and the sums on features."""
    count = 1 + dim + dim * (dim + 1) // 2
    shapes = {"state": (1, heads, count, dim), "norm": (1, heads, count), "sums": (1, heads, count, dim + 1)}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def definition(tokens: dict[str, common.Array], dtype: torch.dtype) -> common.Array:
    """Return y by its definition."""
    result: common.Array = _all_pairs(*(torch.from_numpy(array).to(dtype) for array in tokens.values())).numpy()
    return result


def all_pairs(tokens: dict[str, common.Array]) -> Callable[[], torch.Tensor]:
    """Return PyTorch's call."""
    tensors = [torch.from_numpy(array) for array in tokens.values()]
    return lambda: _all_pairs(*tensors)


def _all_pairs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    scores = q @ k.transpose(2, 3)
    weights = (1 + scores + scores**2 / 2).tril_()
    return (weights @ v / weights.sum(-1, keepdim=True)).transpose(1, 2)


def operator(tokens: dict[str, common.Array], state: dict[str, common.Array], *, fused: bool = False) -> common.Node:
    """Return a call of the operator."""
    _, length, heads, _ = tokens["q"].shape
    past = {name: state[name].copy() for name in ("state", "norm")}
    feed = {**tokens, "temperature": np.ones(heads, np.float32), **past, "lengths": np.array([length])}
    outputs = {"y": tokens["v"].shape, "state_out": past["state"].shape, "norm_out": past["norm"].shape}
    nodes = [make_node("CausalTaylorShift", list(feed), list(outputs), "mixer", normalize=0)]
    return common.node(nodes, feed, outputs, fused=fused)


def in_place(call: common.Node) -> None:
    """Let the state be written where it is read, as sessions do."""
    for value, name in zip(call.outputs[1:], ("state", "norm"), strict=True):
        call.binding.bind_ortvalue_input(name, value)


def on_features(tokens: dict[str, common.Array], sums: common.Array) -> common.Node:
    """Return a call of ONNX Runtime's LinearAttention on the features of queries and keys."""
    _, length, heads, dim = tokens["q"].shape
    first, second = np.triu_indices(dim)
    weights: dict[str, common.Array] = {
        "first": first,
        "second": second,
        "pairs": np.where(first == second, 0.5, 1).astype(np.float32),
        "ones": np.ones((1, length, heads, 1), np.float32),
        "flat": np.array([1, length, -1]),
        "rows": np.array([1, length, heads, dim + 1]),
        "begin": np.array([0]),
        "width": np.array([dim]),
        "end": np.array([dim + 1]),
        "axis": np.array([3]),
    }
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, taken: list[str], given: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(kind, taken, [given], **attributes))

    for name in ("q", "k"):
        add("Gather", [name, "first"], f"{name}1", axis=3)
        add("Gather", [name, "second"], f"{name}2", axis=3)
        add("Mul", [f"{name}1", f"{name}2"], f"{name}_products")
    add("Mul", ["q_products", "pairs"], "q_weighted")
    add("Concat", ["ones", "q", "q_weighted"], "q_features", axis=3)
    add("Concat", ["ones", "k", "k_products"], "k_features", axis=3)
    add("Concat", ["v", "ones"], "columns", axis=3)
    for name in ("q_features", "k_features", "columns"):
        add("Reshape", [name, "flat"], f"{name}_flat")
    nodes.append(
        helper.make_node(
            "LinearAttention",
            ["q_features_flat", "k_features_flat", "columns_flat", "sums"],
            ["sum_flat", "sums_out"],
            domain="com.microsoft",
            update_rule="linear",
            q_num_heads=heads,
            kv_num_heads=heads,
            scale=1.0,
        )
    )
    add("Reshape", ["sum_flat", "rows"], "sum")
    add("Slice", ["sum", "begin", "width", "axis"], "above")
    add("Slice", ["sum", "width", "end", "axis"], "below")
    add("Div", ["above", "below"], "y")
    outputs = {"y": tokens["v"].shape, "sums_out": sums.shape}
    return common.node(nodes, {**tokens, "sums": sums}, outputs, weights=weights)


if __name__ == "__main__":
    main()
