"""Linear attention with decay, fused, against its own body and ONNX Runtime's LinearAttention, which is the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from onnx import helper

from hsm_models.ops import decayed_delta_rule, decayed_linear_attention
from hsm_operators import make_node

LENGTHS = (1, 16, 256, 2048)
ORT = "ORT LinearAttention"
# Fused over the body and over ONNX Runtime's operator, the smallest ratio of all mixers: at one token, and beyond.
STEP_BOUNDS, PREFILL_BOUNDS = (3.0, 1.0), (3.0, 1.0)


@dataclass(frozen=True)
class Mixer:
    """A mixer's operator and sizes, at batch size 1."""

    name: str
    heads: int
    key_dim: int
    value_dim: int
    per_head: bool = False  # one decay for all rows of a state
    delta: bool = False

    @property
    def operator(self) -> str:
        """The operator that it is."""
        return "DecayedDeltaRule" if self.delta else "DecayedLinearAttention"


MIXERS = (
    Mixer("gated linear attention", 8, 64, 64),
    Mixer("gated linear attention, wide", 4, 128, 128),
    Mixer("retention", 8, 64, 128, per_head=True),
    Mixer("Mamba-2", 16, 128, 64, per_head=True),
    Mixer("RG-LRU", 1024, 1, 1),
    Mixer("S6", 512, 16, 1),
    Mixer("gated delta rule", 8, 128, 128, per_head=True, delta=True),
    Mixer("delta rule with decays a channel", 8, 64, 64, delta=True),
)


def main() -> None:
    """Measure every mixer and length."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    worst = {(peer, step): float("inf") for peer in ("body", ORT) for step in (True, False)}
    for mixer in MIXERS:
        for length in (1, 20) if quick else LENGTHS:
            times = measure(report, mixer, length, quick)
            for peer in ("body", ORT):
                ratio = times[peer] / times["fused"]
                worst[peer, length == 1] = min(worst[peer, length == 1], ratio)
    for step, bounds, words in ((True, STEP_BOUNDS, "one token"), (False, PREFILL_BOUNDS, "16 tokens and more")):
        for peer, bound in zip(("body", ORT), bounds, strict=True):
            claim = f"decayed linear attention fused over {peer}, smallest ratio of all mixers, {words}"
            report.at_least(claim, worst[peer, step], bound)
    report.finish()


def measure(report: common.Report, mixer: Mixer, length: int, quick: bool) -> dict[str, float]:
    """Check and time one mixer at one length; return medians in seconds."""
    feed = inputs(mixer, length)
    reference, native = (definition(mixer, feed, dtype) for dtype in (torch.float64, torch.float32))
    calls = runners(mixer, feed)
    errors = {
        name: common.check(
            f"{name}, {mixer.name}, N = {length}", call.result().reshape(native.shape), reference, native
        )
        for name, call in calls.items()
    }
    times = common.take_turns(calls, 2 if quick else 11)
    medians = {name: spread.median for name, spread in times.items()}
    report.row(
        mixer=mixer.name,
        heads=mixer.heads,
        key_dim=mixer.key_dim,
        value_dim=mixer.value_dim,
        length=length,
        fused_ms=medians["fused"] * 1e3,
        quartiles_ms=f"{times['fused'].q1 * 1e3:.3g}-{times['fused'].q3 * 1e3:.3g}",
        **{f"{name} / fused": medians[name] / medians["fused"] for name in ("body", ORT)},
        error=errors["fused"],
        torch_error=float(np.abs(native - reference).max()),
    )
    return medians


def inputs(mixer: Mixer, length: int) -> dict[str, common.Array]:
    """Return the operator's inputs: decays between 0.1 and 1, and keys of length 1 that the delta rule takes out."""
    rng = np.random.default_rng(length)
    shape, keys = (1, length, mixer.heads), mixer.key_dim
    q, k = (common.random(rng, *shape, keys) for _ in range(2))
    v = common.random(rng, *shape, mixer.value_dim)
    decay = -rng.random((*shape, 1 if mixer.per_head else keys)).astype(np.float32)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    feed = {"q": q, "k": k, "v": v, "log_decay": decay}
    if mixer.delta:
        beta = rng.random((*shape, 1)).astype(np.float32)
        feed |= {"k": beta * k, "a": -beta * k * np.exp(decay), "b": k, "beta": beta}
    return {**feed, "state": common.random(rng, 1, mixer.heads, keys, mixer.value_dim), "lengths": np.array([length])}


def definition(mixer: Mixer, feed: dict[str, common.Array], dtype: torch.dtype) -> common.Array:
    """Return y (1,N,H,V) by PyTorch."""
    tensors = {name: torch.from_numpy(array) for name, array in feed.items() if name != "beta"}
    tensors = {name: each if name == "lengths" else each.to(dtype) for name, each in tensors.items()}
    y, _ = decayed_delta_rule(**tensors) if mixer.delta else decayed_linear_attention(**tensors)
    result: common.Array = y.numpy()
    return result


def runners(mixer: Mixer, feed: dict[str, common.Array]) -> dict[str, Any]:
    """Return one callable per contestant."""
    _, length, heads, _ = feed["v"].shape
    own = {name: array for name, array in feed.items() if name != "beta"}
    outputs = {"y": feed["v"].shape, "state_out": feed["state"].shape}
    attributes = {} if mixer.delta else {"exclusive": 0}
    nodes = [make_node(mixer.operator, list(own), list(outputs), "mixer", **attributes)]
    flat = {name: array.reshape(1, length, -1) for name, array in feed.items() if name in ("q", "k", "v", "log_decay")}
    flat["state"] = feed["state"]
    names = ["q", "k", "v", "state", "log_decay"]
    if mixer.delta:
        flat |= {"k": feed["b"].reshape(1, length, -1), "beta": feed["beta"].reshape(1, length, -1)}
        names.append("beta")
    standard = helper.make_node(
        "LinearAttention",
        names,
        list(outputs),
        domain="com.microsoft",
        update_rule="gated_delta" if mixer.delta else "gated",
        q_num_heads=heads,
        kv_num_heads=heads,
        scale=1.0,
    )
    packed = {"y": (1, length, heads * mixer.value_dim), "state_out": feed["state"].shape}
    return {
        "fused": common.node(nodes, own, outputs, fused=True),
        "body": common.node(nodes, own, outputs),
        ORT: common.node([standard], flat, packed),
    }


if __name__ == "__main__":
    main()
