"""The layout of sigma-MoE in transformers' style (jubueche/sigma-moe, ibm-aimc/sigma-moe-small).

Softmax attention with partial RoPE, and sigma-MoE networks in all layers or in some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from ..config import LayerConfig, ModelConfig
from ..errors import CheckpointError
from ..feed_forward import MLPConfig, MoEConfig
from ..mixers import SoftmaxConfig
from ..parts import FeedForwardConfig
from .config_json import ConfigOptions
from .facts import Facts
from .mapping import Entry, count_layers, shape_of, weight_and_bias
from .options import ImportOptions, OptionError

Weights = Mapping[str, torch.Tensor]
NORM_EPS = 1e-5
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "model_type": (("sigma-moe", None), "another model"),
    "selection_mode": (("sigmoid", "sinkmoid", None), "another routing"),
    "approximate": ((False, None), "approximate top-k, which chooses other experts"),
    "triton_approximate": ((False, None), "approximate top-k, which chooses other experts"),
    "moe_bias": ((False, None), "biases in the experts"),
    "qk_layernorm": ((False, None), "LayerNorms of queries and keys"),
    "rope_scaling": ((None,), "scaled RoPE"),
}

# Options that alter nothing, that the weights show, or that are read below.
_KNOWN = {
    "activation", "activation_after_topk", "attention_dropout", "d_ff", "embd_pdrop", "expert_dropout", "expert_size",
    "layer_norm_eps", "moe_dropout", "n_experts", "num_attention_heads", "num_sparse_hidden_layers",
    "partial_rotary_factor", "resid_pdrop", "rope_theta", "routing_regularization", "sinkhorn_n_iters", "sparse_step",
    "top_k_experts", "traceable", "v_dim", "weight_std_scale",
}  # fmt: skip
CONFIG = ConfigOptions(frozenset({*_FIXED, *_KNOWN}), width="d_model", layers="num_hidden_layers")


def options_from(arguments: Mapping[str, Any]) -> ImportOptions:
    """Read a config.json; empty for weights without one.

    Raises:
        CheckpointError: it asks for something that we cannot rebuild.
    """
    for name, (supported, feature) in _FIXED.items():
        value = arguments.get(name)
        if value not in supported:
            listed = ", ".join(repr(item) for item in supported if item is not None) or "null"
            raise CheckpointError(f"config.json has {name} = {value!r}: {feature}; supported: {listed}")
    width = arguments.get("d_model")
    if arguments.get("v_dim") not in (None, width):
        raise CheckpointError(f"config.json has v_dim = {arguments['v_dim']!r}: experts of another width than {width}")
    activation = arguments.get("activation")
    if activation is not None and activation not in tuple(ACTIVATIONS):
        raise CheckpointError(
            f"config.json has activation = {activation!r}; supported: {', '.join(map(repr, ACTIVATIONS))}"
        )
    return ImportOptions(
        heads=arguments.get("num_attention_heads"),
        feed_forward_active=arguments.get("top_k_experts"),
        rope_fraction=arguments.get("partial_rotary_factor"),
        rope_base=arguments.get("rope_theta"),
        activation=ACTIVATIONS[activation] if activation else None,  # type: ignore[arg-type]
        norm_eps=arguments.get("layer_norm_eps"),
    )


def normalise(weights: Weights) -> dict[str, torch.Tensor]:
    """Reduce the variants of the layout to experts in one tensor, (E,D,w) and (E,w,D).

    The variants: one Linear an expert (`traceable`), and the matrix of all experts that a run on a CPU leaves behind.
    """
    found = dict(weights)
    for router in [name for name in weights if name.endswith(".mlp.ff.expert_sel.weight")]:
        prefix, experts = router.removesuffix("expert_sel.weight"), weights[router].shape[0]
        for side in ("keys", "values"):
            single = [f"{prefix}{side}.{expert}.weight" for expert in range(experts)]
            if all(name in found for name in single):
                found[prefix + side] = torch.stack([found.pop(name).T for name in single])
        keys, values = found.get(prefix + "keys"), found.get(prefix + "values")
        if keys is not None and keys.dim() == 2 and keys.shape[0] % experts == 0:
            found[prefix + "keys"] = keys.reshape(experts, -1, keys.shape[1]).transpose(1, 2)
        if values is not None and values.dim() == 2 and values.shape[1] % experts == 0:
            found[prefix + "values"] = values.T.reshape(experts, -1, values.shape[0])
    return found


def read_config(weights: Weights, facts: Facts) -> ModelConfig:
    """Read the configuration off normalised weights.

    Raises:
        CheckpointError: a weight that the shapes are read from is missing or contradicts another.
        OptionError: an option is missing or contradicts the file.
    """
    for name in weights:
        if re.search(r"\.(q|k)_layernorm\.|\.ff\.(o_)?bias$", name):
            raise CheckpointError(f"the file has {name}: LayerNorms of queries and biases of experts are not supported")
    vocab_size, width = shape_of(weights, "model.embed_tokens.weight", 2)
    heads = facts.demand("heads", "the number of heads cannot be read off the weights: give heads, or a config.json")
    if width % heads:
        raise OptionError(f"heads is {heads}, which does not split the width {width}")
    fraction = facts.answer("rope_fraction", 0.5)
    if int(fraction * (width // heads)) % 2:
        raise OptionError(f"RoPE turns pairs of channels, but {fraction} of {width // heads} are odd")
    mixer = SoftmaxConfig(heads=heads, rope_fraction=fraction, rope_base=facts.answer("rope_base", 10000.0))
    activation = facts.answer("activation", "gelu_tanh")
    output = weights.get("lm_head.weight")
    return ModelConfig(
        task="language_model",
        width=width,
        layers=tuple(
            LayerConfig(mixer, _network(weights, f"model.layers.{index}.mlp.ff", activation, facts))
            for index in range(count_layers(weights, r"model\.layers\.(\d+)\."))
        ),
        vocab_size=vocab_size,
        norm_eps=facts.answer("norm_eps", NORM_EPS),
        tie_embeddings=output is None or torch.equal(output, weights["model.embed_tokens.weight"]),
        output_bias="lm_head.bias" in weights,
    )


def _network(weights: Weights, prefix: str, activation: Any, facts: Facts) -> FeedForwardConfig:
    if f"{prefix}.keys" not in weights:
        hidden = shape_of(weights, f"{prefix}.wi.weight", 2)[0]
        return MLPConfig(hidden, activation=activation, bias=f"{prefix}.wi.bias" in weights)
    experts, _, inner = shape_of(weights, f"{prefix}.keys", 3)
    active = facts.demand(
        "feed_forward_active", f"how many of the {experts} experts are used: give feed_forward_active"
    )
    return MoEConfig(experts, active, inner, activation)


def entries(config: ModelConfig) -> list[Entry]:
    """Return the table between our names and the authors' for a model of this configuration."""
    width = config.width
    table = [Entry("embedding.weight", "model.embed_tokens.weight", (config.vocab_size, width))]
    for index, layer in enumerate(config.layers):
        assert isinstance(layer.mixer, SoftmaxConfig)
        table += _layer_entries(layer, layer.mixer.heads, width, f"layers.{index}", f"model.layers.{index}")
    table += weight_and_bias("norm", "model.final_layernorm", (width,))
    if not config.tie_embeddings:
        table.append(Entry("output.weight", "lm_head.weight", (config.vocab_size, width)))
    if config.output_bias:
        table.append(Entry("output.bias", "lm_head.bias", (config.vocab_size,)))
    return table


def _layer_entries(layer: LayerConfig, heads: int, width: int, ours: str, theirs: str) -> list[Entry]:
    table = weight_and_bias(f"{ours}.norm1", f"{theirs}.norm1", (width,))
    # Theirs are q, k and v of each head in turn, ours all queries, all keys, all values.
    table += [
        Entry(
            f"{ours}.mixer.qkv.{kind}",
            f"{theirs}.self_attn.query_key_value.{kind}",
            shape,
            lambda tensor: _swapped(tensor, heads, 3),
            lambda tensor: _swapped(tensor, 3, heads),
        )
        for kind, shape in (("weight", (3 * width, width)), ("bias", (3 * width,)))
    ]
    table += weight_and_bias(f"{ours}.mixer.proj", f"{theirs}.self_attn.dense", (width, width))
    table += weight_and_bias(f"{ours}.norm2", f"{theirs}.norm2", (width,))
    network, prefix = layer.feed_forward, f"{theirs}.mlp.ff"
    if isinstance(network, MoEConfig):
        experts, inner = network.experts, network.expert_width
        return [
            *table,
            Entry(f"{ours}.feed_forward.router.weight", f"{prefix}.expert_sel.weight", (experts, width)),
            Entry(f"{ours}.feed_forward.up.weight", f"{prefix}.keys", (experts, width, inner)),
            Entry(f"{ours}.feed_forward.down.weight", f"{prefix}.values", (experts, inner, width)),
        ]
    assert isinstance(network, MLPConfig)
    shapes = (("up", "wi", (network.hidden, width)), ("down", "wo", (width, network.hidden)))
    for own, name, shape in shapes:
        both = weight_and_bias(f"{ours}.feed_forward.{own}", f"{prefix}.{name}", shape)
        table += both if network.bias else both[:1]
    return table


def _swapped(tensor: torch.Tensor, first: int, second: int) -> torch.Tensor:
    """Swap two axes that the rows consist of, (first, second, rest) to (second, first, rest)."""
    rest = tensor.shape[0] // (first * second)
    return tensor.reshape(first, second, rest, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
