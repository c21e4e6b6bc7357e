"""Based as plain float64 formulas over its authors' state dict, independent of everything of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tests.models.importers import authors

Array = np.ndarray

HEADS, FEATURES, WINDOW = 2, 4, 8
KINDS = ("convolution", "linear", "window", "convolution")
CONFIG: dict[str, Any] = {
    "n_head": HEADS,
    "activation_function": "swiglu",
    "rotary_emb_fraction": 1,
    "layer_norm_epsilon": 1e-5,
    "mixer": {"_target_": "based.models.mixers.convolution.BaseConv", "expand_proj": 4, "kernel_sizes": 3},
    "alt_mixer": {
        "_target_": "based.models.mixers.linear_attention.LinearAttention",
        "feature_dim": FEATURES,
        "num_heads": HEADS,
        "feature_map": {"_target_": "based.models.mixers.linear_attention.TaylorExp", "input_dim": FEATURES},
    },
    "alt_mixer_2": {
        "_target_": "based.models.mixers.slide_attention.SlidingAttention",
        "window_size": WINDOW,
        "num_heads": HEADS,
    },
}


def state(
    generator: torch.Generator, *, rms: bool = True, convolution_bias: bool = False, tied: bool = True
) -> authors.State:
    """Return random weights under the names of HazyResearch/based."""

    def normal(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    width, channels, hidden = 16, 32, 24
    found: authors.State = {}
    norms = ["transformer.ln_f"]
    for index, kind in enumerate(KINDS):
        layer = f"transformer.layers.{index}"
        norms += [f"{layer}.norm1", f"{layer}.norm2"]
        if kind == "convolution":
            mixer = {"in_proj.weight": normal(2 * channels, width), "in_proj.bias": normal(2 * channels)}
            mixer |= {"conv.conv.weight": normal(channels, 1, 3, scale=1.0)}
            mixer |= {"out_proj.weight": normal(width, channels), "out_proj.bias": normal(width)}
            mixer |= {"conv.conv.bias": normal(channels)} if convolution_bias else {}
        elif kind == "linear":
            mixer = {f"proj_{part}.weight": normal(HEADS * FEATURES, width) for part in "qk"}
            mixer |= {"proj_v.weight": normal(width, width), "out_proj.weight": normal(width, width)}
        else:
            mixer = {"Wqkv.weight": normal(3 * width, width), "out_proj.weight": normal(width, width)}
        found |= {f"{layer}.mixer.{name}": tensor for name, tensor in mixer.items()}
        found |= {
            f"{layer}.mlp.fc1.weight": normal(2 * hidden, width),
            f"{layer}.mlp.fc2.weight": normal(width, hidden),
        }
    for norm in norms:
        found[f"{norm}.weight"] = 1 + normal(width)
        found |= {} if rms else {f"{norm}.bias": normal(width)}
    table = normal(13, width, scale=1.0)
    found |= {"transformer.embeddings.word_embeddings.weight": table}
    return found | {"lm_head.weight": table if tied else normal(13, width)}


def logits(found: Mapping[str, torch.Tensor], tokens: Array) -> Array:
    """Return logits of tokens (B,T) in float64 (arXiv:2402.18668)."""
    w = {name: tensor.double().numpy() for name, tensor in found.items()}
    x = w["transformer.embeddings.word_embeddings.weight"][tokens]
    for index, kind in enumerate(KINDS):
        start = f"transformer.layers.{index}."
        own = {name.removeprefix(start): value for name, value in w.items() if name.startswith(start)}
        mixer = {name.removeprefix("mixer."): value for name, value in own.items() if name.startswith("mixer.")}
        x = x + _MIXERS[kind](mixer, _norm(x, own, "norm1"))
        y, gate = np.split(_norm(x, own, "norm2") @ own["mlp.fc1.weight"].T, 2, axis=-1)
        x = x + (y * _silu(gate)) @ own["mlp.fc2.weight"].T
    return _norm(x, w, "transformer.ln_f") @ w["lm_head.weight"].T


def _norm(x: Array, w: Mapping[str, Array], name: str) -> Array:
    if f"{name}.bias" in w:
        return authors.norm(x, w, name, 1e-5)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"]


def _silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def _convolution(w: Mapping[str, Array], x: Array) -> Array:
    u, gate = np.split(x @ w["in_proj.weight"].T + w["in_proj.bias"], 2, axis=-1)
    y = np.zeros_like(u)
    for t in range(u.shape[1]):
        for back in range(min(t, 2) + 1):
            y[:, t] += u[:, t - back] * w["conv.conv.weight"][:, 0, 2 - back]
    y = y + w.get("conv.conv.bias", 0.0)
    return (_silu(y) * gate) @ w["out_proj.weight"].T + w["out_proj.bias"]


def _heads(x: Array) -> Array:
    return x.reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)


def _joined(y: Array, w: Mapping[str, Array]) -> Array:
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1) @ w["out_proj.weight"].T


def _linear(w: Mapping[str, Array], x: Array) -> Array:
    q, k, v = (_heads(x @ w[f"proj_{part}.weight"].T) for part in "qkv")
    features = [_features(part) for part in (q, k)]
    weights = np.tril(np.einsum("bhif,bhjf->bhij", *features))
    return _joined(weights @ v / (weights.sum(-1, keepdims=True) + 1e-12), w)


def _features(x: Array) -> Array:
    """1, x / d^(1/4) and x_i x_j / sqrt(2 d)."""
    d = x.shape[-1]
    squares = np.einsum("...i,...j->...ij", x, x).reshape(*x.shape[:-1], d * d) / math.sqrt(2 * d)
    return np.concatenate((np.ones_like(x[..., :1]), x / d**0.25, squares), axis=-1)


def _window(w: Mapping[str, Array], x: Array) -> Array:
    q, k, v = (_heads(part) for part in np.split(x @ w["Wqkv.weight"].T, 3, axis=-1))
    q, k = _turned(q), _turned(k)
    place = np.arange(x.shape[1])
    back = place[:, None] - place[None]
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])
    scores = np.where((back >= 0) & (back <= WINDOW // 2), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return _joined(weights / weights.sum(-1, keepdims=True) @ v, w)


def _turned(x: Array) -> Array:
    """RoPE: channel i turns with channel i + d/2."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[2])[:, None] * 10000.0 ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate((a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)), axis=-1)


_MIXERS = {"convolution": _convolution, "linear": _linear, "window": _window}
