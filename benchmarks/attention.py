"""Softmax attention, fused, against its own body and ONNX Runtime's MultiHeadAttention, and steps with a cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from onnx import helper

from hsm_models.ops import attention, attention_cached, relative_attention
from hsm_operators import make_node

LENGTHS = (64, 256, 1024, 4096)
# Heads and their width, at batch size 1.
SHAPES = ((8, 16), (8, 32), (8, 64), (4, 128), (1, 64))
CAPACITIES = (64, 1024, 16384)
# Tokens that came before the step, for the costs of a capacity, and of reading much.
FEW, MANY = 48, (1024, 8192)
ORT = "ORT MultiHeadAttention"
# The smallest ratio of all shapes to ONNX Runtime's operator; a step over one at a small capacity, and over a pass that
# sums up the same keys and values.
PROMPT_BOUND, CAPACITY_BOUND, READ_BOUND = 1.0, 1.3, 1.3
# Attention with relative positions makes three products where attention without makes two.
RELATIVE_BOUND = 2.0


def main() -> None:
    """Measure every shape, and steps."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    for causal in (True, False):
        worst = float("inf")
        for heads, dim in SHAPES[:1] if quick else SHAPES:
            for length in (20,) if quick else LENGTHS:
                worst = min(worst, prompt(report, heads, dim, length, causal, quick))
        kind = "causal" if causal else "full"
        report.at_least(f"{kind} attention fused over {ORT}, smallest ratio of all shapes", worst, PROMPT_BOUND)
    relative(report, quick)
    capacities(report, quick)
    reading(report, quick)
    report.finish()


def prompt(report: common.Report, heads: int, dim: int, length: int, causal: bool, quick: bool) -> float:
    """Check and time one shape; return ONNX Runtime's time over ours."""
    rng = np.random.default_rng(length)
    feed = {name: common.random(rng, 1, length, heads, dim) for name in ("q", "k", "v")}
    feed["lengths"] = np.array([length])
    attributes = {"causal": int(causal), "window": 0, "scale": dim**-0.5}
    reference, native = (
        attention(*_tensors(feed, dtype).values(), causal, 0, dim**-0.5).numpy()
        for dtype in (torch.float64, torch.float32)
    )
    outputs = {"y": feed["q"].shape}
    nodes = [make_node("Attention", list(feed), ["y"], "mixer", **attributes)]
    flat = {name: feed[name].reshape(1, length, -1) for name in ("q", "k", "v")}
    standard = helper.make_node(
        "MultiHeadAttention",
        list(flat),
        ["y"],
        domain="com.microsoft",
        num_heads=heads,
        unidirectional=int(causal),
        scale=dim**-0.5,
    )
    calls: dict[str, Any] = {
        "fused": common.node(nodes, feed, outputs, fused=True),
        "body": common.node(nodes, feed, outputs),
        ORT: common.node([standard], flat, {"y": (1, length, heads * dim)}),
    }
    for name, call in calls.items():
        what = f"{name}, H = {heads}, d = {dim}, N = {length}"
        common.check(what, call.result().reshape(native.shape), reference, native, 2 if name == "fused" else 8)
    times = {name: spread.median for name, spread in common.take_turns(calls, 2 if quick else 7).items()}
    report.row(
        heads=heads,
        dim=dim,
        length=length,
        causal=causal,
        fused_ms=times["fused"] * 1e3,
        gflops=2 * heads * dim * length * (length + 1) * (1 if causal else 2) / times["fused"] / 1e9,
        **{f"{name} / fused": times[name] / times["fused"] for name in ("body", ORT)},
    )
    return times[ORT] / times["fused"]


def relative(report: common.Report, quick: bool) -> None:
    """Check and time causal attention with relative positions against its body, and against attention without."""
    worst, slowest = float("inf"), 0.0
    for heads, dim in SHAPES[:1] if quick else SHAPES:
        for length in (20,) if quick else LENGTHS[1:]:
            rng = np.random.default_rng(length)
            feed = {name: common.random(rng, 1, length, heads, dim) for name in ("q", "k", "v")}
            feed |= {"lengths": np.array([length]), "relative_keys": common.random(rng, length, heads, dim)}
            attributes = {"causal": 1, "window": 0, "scale": dim**-0.5}
            reference, native = (
                relative_attention(*_tensors(feed, dtype).values(), True, 0, dim**-0.5).numpy()
                for dtype in (torch.float64, torch.float32)
            )
            outputs = {"y": feed["q"].shape}
            nodes = [make_node("RelativeAttention", list(feed), ["y"], "mixer", **attributes)]
            plain = {name: value for name, value in feed.items() if name != "relative_keys"}
            alone = [make_node("Attention", list(plain), ["y"], "mixer", **attributes)]
            calls = {
                "relative": common.node(nodes, feed, outputs, fused=True),
                "body": common.node(nodes, feed, outputs),
                "plain": common.node(alone, plain, outputs, fused=True),
            }
            for name in ("relative", "body"):
                what = f"{name} positions, H = {heads}, d = {dim}, N = {length}"
                common.check(what, calls[name].result(), reference, native, 2 if name == "relative" else 8)
            times = {name: spread.median for name, spread in common.take_turns(calls, 2 if quick else 7).items()}
            own = times["relative"]
            ratios = {"body / relative": times["body"] / own, "relative / plain": own / times["plain"]}
            report.row(heads=heads, dim=dim, length=length, relative_ms=own * 1e3, **ratios)
            worst, slowest = min(worst, ratios["body / relative"]), max(slowest, ratios["relative / plain"])
    report.at_least("relative attention fused over its body, smallest ratio of all shapes", worst, 1.0)
    report.at_most("relative attention over attention without, largest ratio of all shapes", slowest, RELATIVE_BOUND)


def capacities(report: common.Report, quick: bool) -> None:
    """Time a step after a few tokens at every capacity."""
    calls = {capacity: step(8, 64, capacity, FEW) for capacity in ((64, 256) if quick else CAPACITIES)}
    times = common.take_turns({str(capacity): call for capacity, call in calls.items()}, 2 if quick else 11)
    first = times[str(next(iter(calls)))].median
    for capacity in calls:
        report.row(step_capacity=capacity, used=FEW, step_us=times[str(capacity)].median * 1e6)
    last = times[str(list(calls)[-1])].median
    report.at_most("a cached step at the largest capacity over one at 64 slots", last / first, CAPACITY_BOUND)


def reading(report: common.Report, quick: bool) -> None:
    """Time a step after many tokens against a pass that reads the same keys and values."""
    worst = 0.0
    for used in (FEW,) if quick else MANY:
        shape = (2, used + 1, 8 * 64)
        numbers = torch.randn(shape)
        calls: dict[str, Any] = {"step": step(8, 64, used + 1, used), "read": lambda numbers=numbers: numbers.sum()}
        times = {name: spread.median for name, spread in common.take_turns(calls, 2 if quick else 11).items()}
        ratio = times["step"] / times["read"]
        report.row(used=used, step_us=times["step"] * 1e6, read_us=times["read"] * 1e6, ratio=ratio)
        worst = max(worst, ratio)
    report.at_most("a cached step over a sum of all keys and values that it reads", worst, READ_BOUND)


def step(heads: int, dim: int, capacity: int, used: int) -> common.Node:
    """Return a checked call of one token after `used` tokens, with the cache in place."""
    rng = np.random.default_rng(capacity)
    feed = {name: common.random(rng, 1, 1, heads, dim) for name in ("q", "k", "v")}
    feed |= {name: common.random(rng, 1, capacity, heads, dim) for name in ("key_cache", "value_cache")}
    feed |= {"position": np.array([used]), "lengths": np.array([1])}
    outputs = {"y": feed["q"].shape, "key_cache_out": feed["key_cache"].shape}
    outputs["value_cache_out"] = feed["value_cache"].shape
    nodes = [make_node("AttentionCached", list(feed), list(outputs), "mixer", scale=dim**-0.5)]
    call = common.node(nodes, feed, outputs, fused=True)
    for value, name in zip(call.outputs[1:], ("key_cache", "value_cache"), strict=True):
        value.update_inplace(feed[name])
        call.binding.bind_ortvalue_input(name, value)
    reference, native = (
        attention_cached(**_tensors(feed, dtype), scale=dim**-0.5)[0].numpy()
        for dtype in (torch.float64, torch.float32)
    )
    common.check(f"a step after {used} of {capacity} tokens", call.result(), reference, native)
    return call


def _tensors(feed: Mapping[str, common.Array], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    tensors = {name: torch.from_numpy(array) for name, array in feed.items()}
    return {name: each.to(dtype) if each.is_floating_point() else each for name, each in tensors.items()}


if __name__ == "__main__":
    main()
