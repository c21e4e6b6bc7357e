"""MoEUT and sigma-MoE as plain float64 formulas over their authors' state dicts, independent of everything of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tests.models.importers import authors

Array = np.ndarray


def moeut_state(generator: torch.Generator, *, trained: bool, group: int = 2, pre: bool = False) -> authors.State:
    """Return random weights of MoEUT's package, or of its training code (with ordinary pre-norm layers: `pre`)."""

    def normal(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    width, experts = 16, 5
    state = {"embedding.weight": normal(13, width, scale=1.0)}
    names = {"q.weight": "projections.q", "k.weight": "projections.k", "v": "projections.v", "o": "projections.o"}
    names |= {"sel_v": "selections.v", "sel_o": "selections.o"}
    for index in range(group):
        attention = authors.attention_state(generator, width, 2, 8, 3)
        network = {"keys": normal(experts, width, 6), "values": normal(experts, 6, width)}
        network |= {"expert_sel": normal(experts, width, scale=1.0)}
        if trained:
            layer = {f"self_attn.{names[name]}": tensor for name, tensor in attention.items()}
            layer |= {f"pkm.{name}": tensor for name, tensor in network.items()}
            layer |= {"pkm.iter": torch.tensor(3), "pkm.kv_sel_counts_100": torch.zeros(experts, 6)}
            norms = ("norm1", "norm2") if pre else ("self_attn.norm", "pkm.norm")
        else:
            layer = {f"attention.{name}": tensor for name, tensor in attention.items()}
            layer |= {f"ffn.{name}": tensor for name, tensor in network.items()}
            norms = ("ln1", "ln2")
        for norm in norms:
            layer |= {f"{norm}.weight": 1 + normal(width), f"{norm}.bias": normal(width)}
        prefix = "unique_layers" if trained else "transformer.layers"
        state |= {f"{prefix}.{index}.{name}": tensor for name, tensor in layer.items()}
    output = "output" if trained else "lm_head"
    state |= {"out_norm.weight": 1 + normal(width), "out_norm.bias": normal(width)}
    return state | {f"{output}.weight": normal(13, width), f"{output}.bias": normal(13)}


def moeut_logits(
    state: Mapping[str, torch.Tensor],
    tokens: Array,
    *,
    layers: int,
    active: int,
    network_active: int,
    pre: bool = False,
) -> Array:
    """Return logits of tokens (B,T) (arXiv:2405.16039, section 2): layers in turn, the group again and again."""
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    trained = "output.weight" in w
    prefix = "unique_layers" if trained else "transformer.layers"
    group = len({name.removeprefix(prefix + ".").split(".")[0] for name in w if name.startswith(prefix)})
    norms = ("ln1", "ln2") if not trained else ("norm1", "norm2") if pre else ("self_attn.norm", "pkm.norm")
    back = {"projections.q": "q.weight", "projections.k": "k.weight", "projections.v": "v", "projections.o": "o"}
    back |= {"selections.v": "sel_v", "selections.o": "sel_o"}
    x = w["embedding.weight"][tokens]
    for step in range(layers):
        start = f"{prefix}.{step % group}."
        b = {name.removeprefix(start): value for name, value in w.items() if name.startswith(start)}
        inside = "self_attn." if trained else "attention."
        a = {name.removeprefix(inside): value for name, value in b.items() if name.startswith(inside)}
        a = {back.get(name, name): value for name, value in a.items()}
        normed = authors.norm(x, b, norms[0], 1e-5)
        x = x + _attention(a, normed, normed if pre else x, active)
        inside = "pkm." if trained else "ffn."
        normed = authors.norm(x, b, norms[1], 1e-5)
        gates = authors.gates(normed @ b[f"{inside}expert_sel"].T, network_active)
        hidden = np.maximum(np.einsum("btd,edw->btew", normed if pre else x, b[f"{inside}keys"]), 0)
        x = x + np.einsum("bte,btew,ewd->btd", gates, hidden, b[f"{inside}values"])
    output = "output" if trained else "lm_head"
    return authors.norm(x, w, "out_norm", 1e-5) @ w[f"{output}.weight"].T + w[f"{output}.bias"]


def _attention(w: Mapping[str, Array], normed: Array, value: Array, active: int, heads: int = 2) -> Array:
    """SwitchHead with RoPE on half of the channels: queries, keys and routing of `normed`, values of `value`."""
    head_dim = w["q.weight"].shape[0] // heads
    experts = w["v"].shape[0] // heads
    steps = np.arange(normed.shape[1])
    y = np.zeros_like(normed)
    for h in range(heads):
        rows, chosen = slice(h * head_dim, (h + 1) * head_dim), slice(h * experts, (h + 1) * experts)
        q, k = (authors.rotate(normed @ w[name][rows].T, head_dim // 2, 10000.0) for name in ("q.weight", "k.weight"))
        v = np.einsum("bte,btd,edf->btf", authors.gates(normed @ w["sel_v"][chosen].T, active), value, w["v"][chosen])
        attended = _softmax(q, k, steps) @ v
        gates = authors.gates(normed @ w["sel_o"][chosen].T, active)
        y += np.einsum("bte,btf,efd->btd", gates, attended, w["o"][chosen])
    return y


def _softmax(q: Array, k: Array, steps: Array) -> Array:
    scores = np.einsum("btf,bsf->bts", q, k) / math.sqrt(q.shape[-1])
    scores = np.where(steps[None, :] <= steps[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


SIGMA_CONFIG: dict[str, Any] = {
    "model_type": "sigma-moe",
    "d_model": 16,
    "num_attention_heads": 2,
    "top_k_experts": 2,
    "n_experts": 4,
    "activation": "gelu_new",
    "selection_mode": "sigmoid",
    "partial_rotary_factor": 0.5,
    "rope_theta": 10000.0,
    "layer_norm_eps": 1e-5,
    "moe_bias": False,
}


def sigma_state(
    generator: torch.Generator, *, layers: int = 3, sparse_step: int = 2, tied: bool = False
) -> authors.State:
    """Return random weights under the names of sigma-MoE's code: every `sparse_step`-th layer is routed."""

    def normal(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    width = 16
    state = {"model.embed_tokens.weight": normal(13, width, scale=1.0)}
    for index in range(layers):
        layer = {
            "self_attn.query_key_value.weight": normal(3 * width, width),
            "self_attn.query_key_value.bias": normal(3 * width),
            "self_attn.dense.weight": normal(width, width),
            "self_attn.dense.bias": normal(width),
        }
        if index % sparse_step == 0:
            layer |= {"mlp.ff.keys": normal(4, width, 6), "mlp.ff.values": normal(4, 6, width)}
            layer |= {"mlp.ff.expert_sel.weight": normal(4, width, scale=1.0)}
        else:
            layer |= {"mlp.ff.wi.weight": normal(20, width), "mlp.ff.wo.weight": normal(width, 20)}
        for norm in ("norm1", "norm2"):
            layer |= {f"{norm}.weight": 1 + normal(width), f"{norm}.bias": normal(width)}
        state |= {f"model.layers.{index}.{name}": tensor for name, tensor in layer.items()}
    state |= {"model.final_layernorm.weight": 1 + normal(width), "model.final_layernorm.bias": normal(width)}
    state["lm_head.weight"] = state["model.embed_tokens.weight"] if tied else normal(13, width)
    return state | {"lm_head.bias": normal(13)}


def sigma_logits(state: Mapping[str, torch.Tensor], tokens: Array) -> Array:
    """Return logits of tokens (B,T) from weights as `sigma_state` makes them."""
    w = {name.removeprefix("model."): tensor.double().numpy() for name, tensor in state.items()}
    x = w["embed_tokens.weight"][tokens]
    act, heads = authors.ACTIVATIONS["gelu_tanh"], SIGMA_CONFIG["num_attention_heads"]
    batch, length, width = x.shape
    index = 0
    while f"layers.{index}.norm1.weight" in w:
        start = f"layers.{index}."
        b = {name.removeprefix(start): value for name, value in w.items() if name.startswith(start)}
        h = authors.norm(x, b, "norm1", 1e-5)
        fused = h @ b["self_attn.query_key_value.weight"].T + b["self_attn.query_key_value.bias"]
        fused = fused.reshape(batch, length, heads, 3, width // heads)
        attended = np.empty((batch, length, heads, width // heads))
        for head in range(heads):
            q, k = (authors.rotate(fused[:, :, head, side], width // heads // 2, 10000.0) for side in (0, 1))
            attended[:, :, head] = _softmax(q, k, np.arange(length)) @ fused[:, :, head, 2]
        x = x + attended.reshape(x.shape) @ b["self_attn.dense.weight"].T + b["self_attn.dense.bias"]
        h = authors.norm(x, b, "norm2", 1e-5)
        if "mlp.ff.keys" in b:
            gates = authors.gates(h @ b["mlp.ff.expert_sel.weight"].T, SIGMA_CONFIG["top_k_experts"])
            hidden = act(np.einsum("btd,edw->btew", h, b["mlp.ff.keys"]))
            x = x + np.einsum("bte,btew,ewd->btd", gates, hidden, b["mlp.ff.values"])
        else:
            x = x + act(h @ b["mlp.ff.wi.weight"].T) @ b["mlp.ff.wo.weight"].T
        index += 1
    return authors.norm(x, w, "final_layernorm", 1e-5) @ w["lm_head.weight"].T + w["lm_head.bias"]
