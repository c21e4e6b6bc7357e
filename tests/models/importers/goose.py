"""RWKV-7 as plain float64 formulas over its author's state dict, token by token, independent of everything of ours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from tests.models.importers import authors

Array = np.ndarray


def state(
    generator: torch.Generator, *, layers: int = 3, heads: int = 2, head: int = 8, width: int = 16
) -> authors.State:
    """Return random weights under the names of BlinkDL/RWKV-LM; H*N may differ from the width."""

    def normal(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    inner, hidden = heads * head, 24
    found = {"emb.weight": normal(13, width, scale=1.0)}
    norms = {"blocks.0.ln0": width, "ln_out": width}
    for index in range(layers):
        block = f"blocks.{index}"
        norms |= {f"{block}.ln1": width, f"{block}.ln2": width, f"{block}.att.ln_x": inner}
        layer = {f"x_{name}": torch.rand(1, 1, width, generator=generator) for name in "rwkvag"}
        for name, rank in (("w", 5), ("a", 4), ("g", 6), ("v", 3)):
            if name != "v" or index:
                layer |= {f"{name}1": normal(width, rank), f"{name}2": normal(rank, inner)}
                layer |= {} if name == "g" else {f"{name}0": normal(1, 1, inner, scale=1.0)}
        layer |= {"k_k": 0.7 + normal(1, 1, inner), "k_a": 1 + normal(1, 1, inner), "r_k": normal(heads, head)}
        layer |= {f"{name}.weight": normal(inner, width) for name in ("receptance", "key", "value")}
        layer |= {"output.weight": normal(width, inner)}
        found |= {f"{block}.att.{name}": tensor for name, tensor in layer.items()}
        found |= {
            f"{block}.ffn.x_k": torch.rand(1, 1, width, generator=generator),
            f"{block}.ffn.key.weight": normal(hidden, width),
            f"{block}.ffn.value.weight": normal(width, hidden),
        }
    for name, size in norms.items():
        found |= {f"{name}.weight": 1 + normal(size), f"{name}.bias": normal(size)}
    return found | {"head.weight": normal(13, width)}


def as_transformers(found: Mapping[str, torch.Tensor]) -> authors.State:
    """Return the same weights under the names of fla-org's models, matrices turned as they store them."""
    parts = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm", "ln_x": "g_norm"}
    parts |= {"receptance": "r_proj", "output": "o_proj"}
    whole = {"emb.weight": "model.embeddings.weight", "head.weight": "lm_head.weight"}
    whole |= {f"ln_out.{kind}": f"model.norm.{kind}" for kind in ("weight", "bias")}
    renamed: authors.State = {}
    for name, tensor in found.items():
        if name in whole:
            renamed[whole[name]] = tensor
            continue
        _, index, *rest = name.split(".")
        if rest[0] == "att":
            inside = rest[1]
            attention = parts | {"key": "k_proj", "value": "v_proj"}
            if len(inside) == 2 and inside[0] in "wagv" and inside[1] in "012":
                place = {"1": "lora.0.weight", "2": "lora.2.weight", "0": "lora.2.bias"}[inside[1]]
                own = f"attn.{inside[0]}_lora.{place}"
                tensor = tensor.reshape(-1) if inside[1] == "0" else tensor.T
            else:
                own = ".".join(("attn", attention.get(inside, inside), *rest[2:]))
                tensor = tensor.reshape(-1) if inside in ("k_k", "k_a") else tensor
        else:
            own = ".".join((parts.get(rest[0], rest[0]), *rest[1:]))
            tensor = tensor.reshape(-1) if own == "ffn.x_k" else tensor
        renamed[f"model.layers.{index}.{own}"] = tensor.contiguous()
    return renamed


def logits(found: Mapping[str, torch.Tensor], tokens: Array, head_eps: float = 64e-5) -> Array:
    """Return logits of tokens (B,T) in float64 (arXiv:2503.14456, section 4), one row at a time."""
    weights = {name: tensor.double().numpy() for name, tensor in found.items()}
    return np.stack([_row(weights, row, head_eps) for row in tokens])


def _row(w: Mapping[str, Array], tokens: Array, head_eps: float) -> Array:
    layers = len({name.split(".")[1] for name in w if name.startswith("blocks.")})
    x = authors.norm(w["emb.weight"][tokens], w, "blocks.0.ln0", 1e-5)
    first = None
    for index in range(layers):
        block = f"blocks.{index}"
        att = {
            name.removeprefix(f"{block}.att."): value for name, value in w.items() if name.startswith(f"{block}.att.")
        }
        mixed, first = _time(att, authors.norm(x, w, f"{block}.ln1", 1e-5), first, head_eps)
        x = x + mixed
        u = authors.norm(x, w, f"{block}.ln2", 1e-5)
        k = _lerp(u, w[f"{block}.ffn.x_k"]) @ w[f"{block}.ffn.key.weight"].T
        x = x + np.maximum(k, 0) ** 2 @ w[f"{block}.ffn.value.weight"].T
    return authors.norm(x, w, "ln_out", 1e-5) @ w["head.weight"].T


def _time(w: Mapping[str, Array], x: Array, first: Array | None, head_eps: float) -> tuple[Array, Array]:
    heads = w["r_k"].shape
    u = {name: _lerp(x, w[f"x_{name}"]) for name in "rwkvag"}
    r, k, v = (u[one] @ w[f"{name}.weight"].T for one, name in (("r", "receptance"), ("k", "key"), ("v", "value")))
    decay = np.exp(-np.exp(-0.5) * _sigmoid(w["w0"].reshape(-1) + np.tanh(u["w"] @ w["w1"]) @ w["w2"]))
    rate = _sigmoid(w["a0"].reshape(-1) + u["a"] @ w["a1"] @ w["a2"])
    gate = _sigmoid(u["g"] @ w["g1"]) @ w["g2"]
    if first is None:
        first = v
    else:
        v = v + (first - v) * _sigmoid(w["v0"].reshape(-1) + u["v"] @ w["v1"] @ w["v2"])
    towards = k * w["k_k"].reshape(-1)
    k = k * (1 + (rate - 1) * w["k_a"].reshape(-1))
    r, k, v, decay, rate, towards = (part.reshape(-1, *heads) for part in (r, k, v, decay, rate, towards))
    towards = towards / np.linalg.norm(towards, axis=-1, keepdims=True)
    rows = []
    sums = np.zeros((heads[0], heads[1], heads[1]))  # values by keys, as in the paper
    for t in range(len(x)):
        read = np.einsum("hvk,hk->hv", sums, towards[t])
        sums = sums * decay[t][:, None] - read[:, :, None] * (towards[t] * rate[t])[:, None]
        sums = sums + v[t][:, :, None] * k[t][:, None]
        y = np.einsum("hvk,hk->hv", sums, r[t])
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + head_eps)
        y = y * w["ln_x.weight"].reshape(heads) + w["ln_x.bias"].reshape(heads)
        rows.append(y + (r[t] * k[t] * w["r_k"]).sum(-1, keepdims=True) * v[t])
    return (np.stack(rows).reshape(len(x), -1) * gate) @ w["output.weight"].T, first


def _lerp(x: Array, mix: Array) -> Array:
    """Return a mixture of each token with the one before it, zero before the first."""
    before = np.concatenate((np.zeros_like(x[:1]), x[:-1]))
    return x + (before - x) * mix.reshape(-1)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
