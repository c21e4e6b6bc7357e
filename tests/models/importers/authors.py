"""The authors' models as plain float64 formulas over their own state dicts, independent of everything of ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

Array = np.ndarray
State = dict[str, torch.Tensor]


def taylor_shift_state(
    generator: torch.Generator,
    *,
    width: int = 16,
    layers: int = 2,
    heads: int = 4,
    hidden: int = 24,
    classes: int = 5,
    vocabulary: int = 11,
    max_length: int = 40,
    image: tuple[int, int, int] | None = None,
    class_row: bool = False,
    normalize: bool = True,
    qkv_bias: bool = True,
    layer_scale: bool = False,
) -> State:
    """Return random weights under the names of TaylorShift's authors; `image` is (size, patch, channels)."""

    def normal(*shape: int, scale: float = 0.2) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    state = {"cls_token": normal(1, 1, width)}
    if image is None:
        state |= {"pe": sinusoidal_table(max_length, width).unsqueeze(0)}
        state |= {"patch_embed.weight": normal(width, vocabulary), "patch_embed.bias": normal(width)}
    else:
        size, patch, channels = image
        state |= {"pos_embed": normal(1, (size // patch) ** 2 + class_row, width)}
        state |= {"patch_embed.proj.weight": normal(width, channels, patch, patch)}
        state |= {"patch_embed.proj.bias": normal(width)}
    for index in range(layers):
        block = {
            "norm1.weight": 1 + normal(width),
            "norm1.bias": normal(width),
            "attn.qkv.weight": normal(3 * width, width),
            "attn.proj.weight": normal(width, width),
            "attn.proj.bias": normal(width),
            "norm2.weight": 1 + normal(width),
            "norm2.bias": normal(width),
            "mlp.fc1.weight": normal(hidden, width),
            "mlp.fc1.bias": normal(hidden),
            "mlp.fc2.weight": normal(width, hidden),
            "mlp.fc2.bias": normal(width),
        }
        if normalize:
            block["attn.temperature"] = 1 + normal(1, heads, 1, 1)
        if qkv_bias:
            block["attn.qkv.bias"] = normal(3 * width)
        if layer_scale:
            block |= {"ls1.gamma": normal(width), "ls2.gamma": normal(width)}
        state |= {f"blocks.{index}.{name}": tensor for name, tensor in block.items()}
    state |= {"norm.weight": 1 + normal(width), "norm.bias": normal(width)}
    return state | {"head.weight": normal(classes, width), "head.bias": normal(classes)}


def taylor_shift_logits(
    state: Mapping[str, torch.Tensor],
    inputs: Array,
    *,
    heads: int,
    output_norm: bool = True,
    query_factor: float = 1.0,
    activation: str = "gelu",
    norm_eps: float = 1e-6,
    pooling: str = "token",
    cls_position: bool = False,
) -> Array:
    """Return class logits of ids (B,T) or images (B,C,S,S), by the direct form of eq. 3 in arXiv:2403.02920."""
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    cls = np.broadcast_to(w["cls_token"], (len(inputs), 1, w["cls_token"].shape[-1]))
    if "pe" in w:
        one_hot = np.eye(w["patch_embed.weight"].shape[1])[inputs]
        x = one_hot @ w["patch_embed.weight"].T + w["patch_embed.bias"]
        if cls_position:
            x = np.concatenate((cls, x), axis=1) + w["pe"][:, : inputs.shape[1] + 1]
        else:
            x = np.concatenate((cls, x + w["pe"][:, : inputs.shape[1]]), axis=1)
    else:
        x = _patches(inputs, w["patch_embed.proj.weight"]) + w["patch_embed.proj.bias"]
        if w["pos_embed"].shape[1] == x.shape[1]:
            x = np.concatenate((cls, x + w["pos_embed"]), axis=1)
        else:
            x = np.concatenate((cls, x), axis=1) + w["pos_embed"]
    index = 0
    while f"blocks.{index}.norm1.weight" in w:
        b = {name.split(".", 2)[2]: tensor for name, tensor in w.items() if name.startswith(f"blocks.{index}.")}
        attended = _taylor_attention(norm(x, b, "norm1", norm_eps), b, heads, output_norm, query_factor)
        x = x + b.get("ls1.gamma", 1.0) * attended
        h = norm(x, b, "norm2", norm_eps) @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"]
        h = ACTIVATIONS[activation](h)
        x = x + b.get("ls2.gamma", 1.0) * (h @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"])
        index += 1
    x = norm(x, w, "norm", norm_eps)
    pooled = x[:, 0] if pooling == "token" else x[:, 1:].mean(axis=1)
    return pooled @ w["head.weight"].T + w["head.bias"]


def switch_head_state(
    generator: torch.Generator,
    *,
    width: int = 16,
    layers: int = 2,
    heads: int = 2,
    head_dim: int = 8,
    experts: int = 3,
    hidden: int = 20,
    vocabulary: int = 13,
    relative: bool = False,
    same_selection: bool = False,
    feed_forward_experts: int = 0,
    tied: bool = False,
    outer: str = "unique_layers",
    package_names: bool = False,
) -> State:
    """Return random weights of a language model under the names of SwitchHead's authors."""

    def normal(*shape: int, scale: float = 0.2) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    state = {"embedding.weight": normal(vocabulary, width)}
    for index in range(layers):
        attention = attention_state(
            generator, width, heads, head_dim, experts, relative=relative, same_selection=same_selection
        )
        if not package_names:
            attention = {_TRAINING_NAMES.get(name, name): tensor for name, tensor in attention.items()}
        layer = {f"self_attn.{name}": tensor for name, tensor in attention.items()}
        for norm in ("norm1", "norm2"):
            layer |= {f"{norm}.weight": 1 + normal(width), f"{norm}.bias": normal(width)}
        if feed_forward_experts:
            layer |= {
                "pkm.keys": normal(feed_forward_experts, width, 8),
                "pkm.values": normal(feed_forward_experts, 8, width),
                "pkm.expert_sel": normal(feed_forward_experts, width, scale=1.0),
                "pkm.kv_sel_counts_100": torch.zeros(feed_forward_experts, 8),
            }
        else:
            layer |= {"linear1.weight": normal(hidden, width), "linear1.bias": normal(hidden)}
            layer |= {"linear2.weight": normal(width, hidden), "linear2.bias": normal(width)}
        state |= {f"{outer}.{index}.{name}": tensor for name, tensor in layer.items()}
    state |= {"out_norm.weight": 1 + normal(width), "out_norm.bias": normal(width)}
    state["output.weight"] = state["embedding.weight"] if tied else normal(vocabulary, width)
    return state | {"output.bias": normal(vocabulary)}


def attention_state(
    generator: torch.Generator,
    width: int,
    heads: int,
    head_dim: int,
    experts: int,
    *,
    relative: bool = False,
    same_selection: bool = False,
) -> State:
    """Return random weights of one attention layer under the names of the authors' package."""

    def normal(*shape: int, scale: float = 0.2) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    state = {"q.weight": normal(heads * head_dim, width), "k.weight": normal(heads * head_dim, width)}
    if experts == 1:
        state |= {"v": normal(heads * head_dim, width), "o": normal(width, heads * head_dim)}
    else:
        state |= {"v": normal(heads * experts, width, head_dim), "o": normal(heads * experts, head_dim, width)}
        if not same_selection:
            state["sel_v"] = normal(heads * experts, width, scale=1.0)
    state["sel_o"] = normal(heads * experts, width, scale=1.0)
    if relative:
        state["pos_to_pk"] = normal(heads * head_dim, width)
    return state


def switch_head_logits(
    state: Mapping[str, torch.Tensor],
    tokens: Array,
    *,
    heads: int,
    active: int,
    feed_forward_active: int = 0,
    rope_fraction: float = 0.5,
    rope_base: float = 10000.0,
    activation: str = "relu",
    norm_eps: float = 1e-5,
) -> Array:
    """Return logits of tokens (B,T) from weights under any of the authors' names (arXiv:2312.07987)."""
    back = {theirs: name for name, theirs in _TRAINING_NAMES.items()}
    w = {name.replace("unique_layers", "layers"): tensor.double().numpy() for name, tensor in state.items()}
    x = w["embedding.weight"][tokens]
    index = 0
    while f"layers.{index}.norm1.weight" in w:
        prefix = f"layers.{index}."
        b = {name.removeprefix(prefix): tensor for name, tensor in w.items() if name.startswith(prefix)}
        attention = {name.removeprefix("self_attn."): tensor for name, tensor in b.items()}
        attention = {back.get(name, name): tensor for name, tensor in attention.items()}
        x = x + attention_output(
            attention, norm(x, b, "norm1", norm_eps), heads, active, rope_fraction=rope_fraction, rope_base=rope_base
        )
        h = norm(x, b, "norm2", norm_eps)
        act = ACTIVATIONS[activation]
        x = x + (_sigma_moe(h, b, feed_forward_active, act) if "pkm.keys" in b else _dense(h, b, act))
        index += 1
    return norm(x, w, "out_norm", norm_eps) @ w["output.weight"].T + w["output.bias"]


def attention_output(
    w: Mapping[str, Array],
    x: Array,
    heads: int,
    active: int,
    *,
    rope_fraction: float = 0.5,
    rope_base: float = 10000.0,
) -> Array:
    """Return one attention layer's output for x (B,T,D), head by head and expert by expert."""
    _, length, width = x.shape
    head_dim = w["q.weight"].shape[0] // heads
    routed = w["v"].ndim == 3
    experts = w["v"].shape[0] // heads if routed else 1
    steps = np.arange(length)
    y = np.zeros_like(x)
    for h in range(heads):
        rows = slice(h * head_dim, (h + 1) * head_dim)
        q, k = x @ w["q.weight"][rows].T, x @ w["k.weight"][rows].T
        chosen = slice(h * experts, (h + 1) * experts)
        gates_o = gates(x @ w["sel_o"][chosen].T, active if routed else 1)
        if routed:
            gates_v = gates(x @ w["sel_v"][chosen].T, active) if "sel_v" in w else gates_o
            v = np.einsum("bte,btd,edf->btf", gates_v, x, w["v"][chosen])
        else:
            v = x @ w["v"][rows].T
        if "pos_to_pk" in w:
            distance = steps[None, :] - steps[:, None]
            keys = _sinusoids(distance, width) @ w["pos_to_pk"][rows].T
            scores = np.einsum("btf,bsf->bts", q, k) + np.einsum("btf,tsf->bts", q, keys)
        else:
            turned = int(rope_fraction * head_dim)
            q, k = (rotate(z, turned, rope_base) for z in (q, k))
            scores = np.einsum("btf,bsf->bts", q, k)
        scores = np.where(steps[None, :] <= steps[:, None], scores / math.sqrt(head_dim), -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attended = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        if routed:
            y += np.einsum("bte,btf,efd->btd", gates_o, attended, w["o"][chosen])
        else:
            y += (gates_o * attended) @ w["o"][:, rows].T
    return y


def sinusoidal_table(length: int, width: int) -> torch.Tensor:
    """Return the authors' single-precision table of absolute positions, (length, width)."""
    positions = torch.arange(length, dtype=torch.float32)[:, None]
    frequencies = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10000.0) / width))
    table = torch.empty(length, width)
    table[:, 0::2], table[:, 1::2] = torch.sin(positions * frequencies), torch.cos(positions * frequencies)
    return table


_TRAINING_NAMES = {
    "q.weight": "projections.q",
    "k.weight": "projections.k",
    "v": "projections.v",
    "o": "projections.o",
    "sel_v": "selections.v",
    "sel_o": "selections.o",
}


def norm(x: Array, w: Mapping[str, Array], name: str, eps: float) -> Array:
    """Return LayerNorm of x with the weights `name`."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _patches(image: Array, weight: Array) -> Array:
    batch, channels, size, _ = image.shape
    patch = weight.shape[-1]
    grid = image.reshape(batch, channels, size // patch, patch, size // patch, patch)
    return np.einsum("bciyjx,dcyx->bijd", grid, weight).reshape(batch, -1, weight.shape[0])


def _taylor_attention(x: Array, w: Mapping[str, Array], heads: int, output_norm: bool, query_factor: float) -> Array:
    batch, length, width = x.shape
    projected = x @ w["attn.qkv.weight"].T + w.get("attn.qkv.bias", 0.0)
    q, k, v = projected.reshape(batch, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    if "attn.temperature" in w:
        q = w["attn.temperature"] * q / np.maximum(np.linalg.norm(q, axis=-1, keepdims=True), 1e-12)
        k = k / np.maximum(np.linalg.norm(k, axis=-1, keepdims=True), 1e-12)
    else:
        q = q * query_factor
    scores = q @ k.swapaxes(-1, -2)
    weights = 1 + scores + scores**2 / 2
    y = weights / weights.sum(axis=-1, keepdims=True) @ v
    if output_norm:
        y = y * math.sqrt(length / q.shape[-1])
    return y.transpose(0, 2, 1, 3).reshape(batch, length, width) @ w["attn.proj.weight"].T + w["attn.proj.bias"]


def gates(logits: Array, active: int) -> Array:
    """Return the sigmoid of each row's `active` largest logits and zero for the rest."""
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :active]
    chosen = np.zeros_like(logits)
    np.put_along_axis(chosen, order, 1.0, axis=-1)
    return chosen / (1 + np.exp(-logits))


def _sinusoids(positions: Array, width: int) -> Array:
    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    angles = positions[..., None] * frequencies
    return np.stack((np.sin(angles), np.cos(angles)), axis=-1).reshape(*positions.shape, width)


def rotate(x: Array, channels: int, base: float) -> Array:
    """Return x (B,T,f) with RoPE on its first channels."""
    angles = np.arange(x.shape[1])[:, None] * base ** (-np.arange(0, channels, 2) / channels)
    half = channels // 2
    a, b = x[..., :half], x[..., half:channels]
    turned = (a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles), x[..., channels:])
    return np.concatenate(turned, axis=-1)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


def _dense(x: Array, w: Mapping[str, Array], act: Callable[[Array], Array]) -> Array:
    hidden = act(x @ w["linear1.weight"].T + w["linear1.bias"])
    return hidden @ w["linear2.weight"].T + w["linear2.bias"]


def _sigma_moe(x: Array, w: Mapping[str, Array], active: int, act: Callable[[Array], Array]) -> Array:
    chosen = gates(x @ w["pkm.expert_sel"].T, active)
    hidden = act(np.einsum("btd,edw->btew", x, w["pkm.keys"]))
    return np.einsum("bte,btew,ewd->btd", chosen, hidden, w["pkm.values"])
