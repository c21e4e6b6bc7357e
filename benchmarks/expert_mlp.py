"""A sigma-MoE layer as one ExpertMLP node against the three expert products that it was before: time and memory.

The layer is that of the 47M model (arXiv:2310.10837): 155 experts of 128 hidden units, 4 for each token. Memory is
measured in a process for each contestant, because one that has done other work has freed memory that would hide it.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import common
import numpy as np
import torch
from onnx import NodeProto, helper

from hsm_export.process_memory import forget_peak, peak_bytes, resident_bytes
from hsm_models.ops import expert_matmul, expert_matmul_sum, expert_mlp
from hsm_operators import make_node

EXPERTS, ACTIVE, WIDTH, HIDDEN, LENGTH = 155, 4, 412, 128, 1024
QUICK = (12, 2, 20, 16, 32)
CONTESTANTS = ("fused", "body", "torch", "three nodes fused", "three nodes body", "three nodes torch")
_SATURATED = 1e4  # |logit| whose sigmoid is exactly 0 or 1

Sizes = tuple[int, int, int, int, int]


def main() -> None:
    """Measure a prompt and a single token."""
    quick = common.arguments(__doc__ or "")
    sizes = QUICK if quick else (EXPERTS, ACTIVE, WIDTH, HIDDEN, LENGTH)
    report = common.Report(Path(__file__).stem, quick)
    for length in (sizes[-1], 1):
        times(report, (*sizes[:-1], length), 2 if quick else 11)
    memory(report, sizes, CONTESTANTS[:1] if quick else CONTESTANTS)
    report.finish()


def times(report: common.Report, sizes: Sizes, repetitions: int) -> None:
    """Check every contestant, then let them take turns."""
    feed, weights = arrays(sizes)
    tensors = [torch.from_numpy(array) for array in (*feed.values(), *weights.values())]
    reference = expert_mlp(*(tensor.double() for tensor in tensors), sizes[1], 0).numpy()
    native = expert_mlp(*tensors, sizes[1], 0).numpy()
    calls = {name: contestant(name, sizes) for name in CONTESTANTS}
    errors = {name: common.check(name, call.result(), reference, native) for name, call in calls.items()}
    spreads = common.take_turns(calls, repetitions)
    flops = 4.0 * sizes[-1] * sizes[1] * sizes[2] * sizes[3]
    for name, spread in spreads.items():
        report.row(
            tokens=sizes[-1],
            contestant=name,
            ms=spread.median * 1e3,
            gflops=flops / spread.median / 1e9,
            over_fused=spread.median / spreads["fused"].median,
            error=errors[name],
        )
    for name, bound in (("fused", 1.5), ("body", 4.0), ("torch", 1.5)):
        ratio = spreads[f"three nodes {name}"].median / spreads[name].median
        report.at_least(f"{name}, three nodes over one, {sizes[-1]} tokens", ratio, bound)


def memory(report: common.Report, sizes: Sizes, contestants: Sequence[str]) -> None:
    """Record what the first call of each contestant takes beside its inputs, weights and output."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in contestants:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found[name] = pool.submit(extra_bytes, name, sizes).result() / 2**20
        report.row(tokens=sizes[-1], contestant=name, extra_mib=found[name])
    for name, bound in (("fused", 16.0), ("body", 64.0), ("torch", 64.0)):
        if name not in found:
            continue
        report.at_most(f"{name}, memory beside inputs and output, {sizes[-1]} tokens, MiB", found[name], bound)


def extra_bytes(name: str, sizes: Sizes) -> int:
    """Return the peak memory of a contestant's first call beyond what was resident before it."""
    contestant(name, QUICK)()  # what libraries take once
    call = contestant(name, sizes)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # gives back what making it took, which would hide what a call takes
    before = resident_bytes()
    forget_peak()
    call()
    return max(peak_bytes() - before, 0)


class _Torch:
    """A call of PyTorch's operators that keeps its result."""

    def __init__(self, name: str, sizes: Sizes) -> None:
        feed, weights = arrays(sizes)
        self.tensors = [torch.from_numpy(array) for array in (*feed.values(), *weights.values())]
        self.layer = three_products if name.startswith("three") else one_product
        self.active = sizes[1]

    def __call__(self) -> torch.Tensor:
        with torch.inference_mode():
            return self.layer(*self.tensors, self.active)

    def result(self) -> common.Array:
        array: common.Array = self().numpy()
        return array


def contestant(name: str, sizes: Sizes) -> common.Node | _Torch:
    """Make a contestant; its call has `result()`."""
    if name.endswith("torch"):
        return _Torch(name, sizes)
    feed, weights = arrays(sizes)
    output = {"y": feed["x"].shape}
    if not name.startswith("three"):
        nodes = [make_node("ExpertMLP", [*feed, *weights], ["y"], "experts", k=sizes[1], activation=0)]
        return common.node(nodes, feed, output, weights=weights, fused=name == "fused")
    weights = {key: array[:, None] for key, array in weights.items()}
    nodes, constants = three_nodes(sizes)
    return common.node(nodes, feed, output, weights={**weights, **constants}, fused=name.endswith("fused"))


def arrays(sizes: Sizes) -> tuple[dict[str, common.Array], dict[str, common.Array]]:
    """Return the layer's inputs and weights."""
    experts, _, width, hidden, length = sizes
    rng = np.random.default_rng(0)
    feed = {"x": common.random(rng, 1, length, width), "logits": common.random(rng, 1, length, experts)}
    up = common.random(rng, experts, width, hidden) / np.float32(width**0.5)
    return feed, {"up": up, "down": common.random(rng, experts, hidden, width) / np.float32(hidden**0.5)}


def one_product(x: torch.Tensor, logits: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int) -> torch.Tensor:
    """The layer as one operator."""
    return expert_mlp(x, logits, up, down, k, 0)


def three_products(x: torch.Tensor, logits: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int) -> torch.Tensor:
    """The layer before: a product routes one unit into all gates, and each expert is a head that they switch on."""
    experts = logits.shape[-1]
    logits = logits.unsqueeze(2)
    identity = torch.eye(experts).reshape(1, experts, 1, experts)
    chosen = expert_matmul(torch.ones_like(logits[:, :, 0, :1]), logits, identity, k) > 0
    gated = torch.where(chosen, logits, -_SATURATED).transpose(2, 3)
    passing = ((2 * chosen.to(logits.dtype) - 1) * _SATURATED).transpose(2, 3)
    hidden = expert_matmul(x, gated, up.unsqueeze(1), 1).relu()
    return expert_matmul_sum(hidden, passing, down.unsqueeze(1), 1)


def three_nodes(sizes: Sizes) -> tuple[list[NodeProto], Mapping[str, common.Array]]:
    """The same as nodes, and their constants."""
    experts, active = sizes[:2]
    constants = {
        "head": np.array([2]),
        "unit": np.ones((1, sizes[-1], 1), np.float32),
        "identity": np.eye(experts, dtype=np.float32).reshape(1, experts, 1, experts),
        "nothing": np.float32(0),
        "on": np.float32(_SATURATED),
        "off": np.float32(-_SATURATED),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["logits", "head"], ["by_head"]),
        make_node("ExpertMatMul", ["unit", "by_head", "identity"], ["gates"], "gates", k=active),
        helper.make_node("Greater", ["gates", "nothing"], ["chosen"]),
        helper.make_node("Where", ["chosen", "by_head", "off"], ["gated_row"]),
        helper.make_node("Transpose", ["gated_row"], ["gated"], perm=[0, 1, 3, 2]),
        helper.make_node("Where", ["chosen", "on", "off"], ["passing_row"]),
        helper.make_node("Transpose", ["passing_row"], ["passing"], perm=[0, 1, 3, 2]),
        make_node("ExpertMatMul", ["x", "gated", "up"], ["hidden"], "up_product", k=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        make_node("ExpertMatMulSum", ["active", "passing", "down"], ["y"], "down_product", k=1),
    ]
    return nodes, {key: np.asarray(value) for key, value in constants.items()}


if __name__ == "__main__":
    main()
