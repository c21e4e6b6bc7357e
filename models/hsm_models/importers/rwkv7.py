"""The layouts of RWKV-7 "Goose": its author's (BlinkDL/RWKV-LM, `.pth`), and transformers' (fla-org, safetensors).

Each block, time mixing and channel mixing, is two of our layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..config import LayerConfig, ModelConfig
from ..errors import CheckpointError
from ..mixers.rwkv7 import RWKV7ChannelConfig, RWKV7Config
from .config_json import ConfigOptions
from .facts import Facts
from .mapping import Entry, count_layers, reshaped, shape_of, transposed, weight_and_bias
from .options import ImportOptions, OptionError

Weights = Mapping[str, torch.Tensor]
NORM_EPS = 1e-5
HEAD_NORM_SCALE = 64  # epsilon of the heads' norms, in epsilons of the LayerNorms


@dataclass(frozen=True)
class Naming:
    """What the weights of one code are called.

    Attributes:
        author: the author's code, whose low-rank matrices are stored transposed; else transformers'.
        blocks, embedding, norm, output: the model's parts.
        norms: the norms of a block: behind the embedding, before time mixing and before channel mixing.
        attention: prefix of time mixing.
        projections: receptance, key, value and output.
        ranks: the low-rank matrices of the decay, the rate, the gate and the earlier values.
        head_norm: the norm of the heads' outputs.
    """

    author: bool
    blocks: str
    embedding: str
    norm: str
    output: str
    norms: tuple[str, str, str]
    attention: str
    projections: tuple[str, str, str, str]
    ranks: tuple[str, str, str, str]
    head_norm: str

    def rank(self, prefix: str, which: int) -> tuple[str, str, str]:
        """Return the names of a low-rank map's two matrices and of its bias."""
        start = f"{prefix}.{self.attention}.{self.ranks[which]}"
        if self.author:
            return f"{start}1", f"{start}2", f"{start}0"
        return f"{start}.lora.0.weight", f"{start}.lora.2.weight", f"{start}.lora.2.bias"


AUTHOR = Naming(
    True, "blocks", "emb", "ln_out", "head", ("ln0", "ln1", "ln2"), "att",
    ("receptance", "key", "value", "output"), ("w", "a", "g", "v"), "ln_x",
)  # fmt: skip
TRANSFORMERS = Naming(
    False, "model.layers", "model.embeddings", "model.norm", "lm_head", ("pre_norm", "attn_norm", "ffn_norm"), "attn",
    ("r_proj", "k_proj", "v_proj", "o_proj"), ("w_lora", "a_lora", "g_lora", "v_lora"), "g_norm",
)  # fmt: skip
_OURS = ("receptance", "key", "value", "output")
_OUR_RANKS = ("decay", "rate", "gate", "earlier")
_MIXTURES = {"receptance": "r", "decay": "w", "key": "k", "value": "v", "rate": "a", "gate": "g"}
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "model_type": (("rwkv7", "rwkv7_fla", None), "another model"),
    "hidden_act": (("sqrelu", None), "another activation"),
    "attn": ((None,), "layers of softmax attention between its own"),
    "norm_first": ((True, None), "no norm behind the embedding"),
    "norm_bias": ((True, None), "norms without a bias"),
}

# Options that alter nothing, that the weights show, or that are read below.
_KNOWN = {
    "a_low_rank_dim", "attn_mode", "decay_low_rank_dim", "fuse_cross_entropy", "fuse_linear_cross_entropy",
    "fuse_norm", "gate_low_rank_dim", "head_dim", "hidden_ratio", "intermediate_size", "norm_eps", "num_heads",
    "use_l2warp", "v_low_rank_dim", "value_dim",
}  # fmt: skip
CONFIG = ConfigOptions(frozenset({*_FIXED, *_KNOWN}), width="hidden_size", layers="num_hidden_layers", blocks=2)


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
    widths = arguments.get("value_dim")
    if widths and (not isinstance(widths, list) or any(width != arguments.get("hidden_size") for width in widths)):
        raise CheckpointError(f"config.json has value_dim of {widths}: values of another width than the keys")
    return ImportOptions(norm_eps=arguments.get("norm_eps"))


def find_naming(weights: Weights) -> Naming:
    """Tell which names a file uses.

    Raises:
        CheckpointError: none of the known ones, or those of another generation of RWKV.
    """
    for naming in (AUTHOR, TRANSFORMERS):
        if f"{naming.blocks}.0.{naming.attention}.r_k" in weights:
            return naming
    some = ", ".join(sorted(weights)[:5])
    older = next((name for name in weights if re.search(r"att\.(time_|gate)", name)), None)
    if older is not None:
        raise CheckpointError(
            f"the file has {older}: an earlier generation of RWKV, or a candidate of RWKV-7 with other names; "
            "supported: RWKV-7 with blocks.N.att.r_k"
        )
    raise CheckpointError(
        "the weights are those of no RWKV-7 language model; missing: blocks.0.att.r_k of the author's code or "
        f"model.layers.0.attn.r_k of transformers' (the file has {some}, …)"
    )


def read_config(weights: Weights, naming: Naming, facts: Facts) -> ModelConfig:
    """Read the configuration off the weights.

    Raises:
        CheckpointError: a weight that the shapes are read from is missing, or belongs to an extension of RWKV-7.
        OptionError: an option contradicts the file.
    """
    vocab_size, width = shape_of(weights, f"{naming.embedding}.weight", 2)
    extended = next((name for name in weights if re.search(r"\.ffn\.s_emb|\.qkv|emb_", name)), None)
    if extended is not None:
        raise CheckpointError(f"the file has {extended}: RWKV-7 with deep embeddings (7a, 7b) is not supported")
    eps = facts.answer("norm_eps", NORM_EPS)
    layers = []
    for index in range(count_layers(weights, rf"{re.escape(naming.blocks)}\.(\d+)\.")):
        prefix = f"{naming.blocks}.{index}"
        layers.append(LayerConfig(_time_mixing(weights, naming, prefix, index, eps, facts)))
        layers.append(LayerConfig(RWKV7ChannelConfig(shape_of(weights, f"{prefix}.ffn.key.weight", 2)[0])))
    return ModelConfig(
        task="language_model",
        width=width,
        layers=tuple(layers),
        vocab_size=vocab_size,
        norm_eps=eps,
        output_bias=False,
        embedding_norm=True,
        tie_embeddings=f"{naming.output}.weight" not in weights,
    )


def _time_mixing(weights: Weights, naming: Naming, prefix: str, index: int, eps: float, facts: Facts) -> RWKV7Config:
    heads, head_dim = shape_of(weights, f"{prefix}.{naming.attention}.r_k", 2)
    given = facts.given("heads")
    if given is not None and given != heads:
        raise OptionError(f"heads is {given}, but the weights have {heads}")

    def rank(which: int) -> int:
        return shape_of(weights, naming.rank(prefix, which)[0], 2)[1 if naming.author else 0]

    # transformers' code makes the epsilon from the head's width, the author's is 64 of the norms': equal for its heads.
    scale = HEAD_NORM_SCALE if naming.author else head_dim
    return RWKV7Config(
        heads=heads,
        head_dim=head_dim,
        decay_rank=rank(0),
        rate_rank=rank(1),
        gate_rank=rank(2),
        value_rank=rank(3) if index else None,
        head_norm_eps=scale * eps,
    )


def ignored_names(weights: Weights, naming: Naming) -> set[str]:
    """Return the names that no formula reads: the first layer has no earlier values."""
    start = f"{naming.blocks}.0.{naming.attention}.{naming.ranks[3]}"
    pattern = re.escape(start) + (r"[012]$" if naming.author else r"\.")
    return {name for name in weights if re.match(pattern, name)}


def entries(config: ModelConfig, naming: Naming = AUTHOR) -> list[Entry]:
    """Return the table between our names and theirs for a model of this configuration."""
    width = config.width
    table = [Entry("embedding.weight", f"{naming.embedding}.weight", (config.vocab_size, width))]
    table += weight_and_bias("embedding_norm", f"{naming.blocks}.0.{naming.norms[0]}", (width,))
    for index, layer in enumerate(config.layers):
        ours, theirs = f"layers.{index}", f"{naming.blocks}.{index // 2}"
        table += weight_and_bias(f"{ours}.norm1", f"{theirs}.{naming.norms[1 + index % 2]}", (width,))
        if isinstance(layer.mixer, RWKV7Config):
            table += _time_entries(layer.mixer, width, naming, f"{ours}.mixer", theirs)
        else:
            assert isinstance(layer.mixer, RWKV7ChannelConfig)
            table += _channel_entries(layer.mixer, width, naming, f"{ours}.mixer", f"{theirs}.ffn")
    table += weight_and_bias("norm", naming.norm, (width,))
    if not config.tie_embeddings:
        table.append(Entry("output.weight", f"{naming.output}.weight", (config.vocab_size, width)))
    return table


def _time_entries(config: RWKV7Config, width: int, naming: Naming, ours: str, block: str) -> list[Entry]:
    heads, inner = (config.heads, config.head_width(width)), config.heads * config.head_width(width)
    theirs = f"{block}.{naming.attention}"
    table = [
        reshaped(f"{ours}.mix_{name}", f"{theirs}.x_{one}", (1, 1, width), (width,)) for name, one in _MIXTURES.items()
    ]
    for own, name in zip(_OURS, naming.projections, strict=True):
        shape = (width, inner) if own == "output" else (inner, width)
        table.append(Entry(f"{ours}.{own}.weight", f"{theirs}.{name}.weight", shape))
    ranks = (config.decay_rank, config.rate_rank, config.gate_rank, config.value_rank)
    for which, (own, rank) in enumerate(zip(_OUR_RANKS, ranks, strict=True)):
        if rank is None:
            continue
        down, up, bias = naming.rank(block, which)
        if naming.author:
            table.append(transposed(f"{ours}.{own}.down.weight", down, (width, rank)))
            table.append(transposed(f"{ours}.{own}.up.weight", up, (rank, inner)))
        else:
            table.append(Entry(f"{ours}.{own}.down.weight", down, (rank, width)))
            table.append(Entry(f"{ours}.{own}.up.weight", up, (inner, rank)))
        if own != "gate":
            table.append(
                reshaped(f"{ours}.{own}.up.bias", bias, (1, 1, inner) if naming.author else (inner,), (inner,))
            )
    vector = (1, 1, inner) if naming.author else (inner,)
    table.append(reshaped(f"{ours}.key_scale", f"{theirs}.k_k", vector, heads))
    table.append(reshaped(f"{ours}.rate_mix", f"{theirs}.k_a", vector, heads))
    table.append(Entry(f"{ours}.bonus", f"{theirs}.r_k", heads))
    table += [
        reshaped(f"{ours}.norm.{kind}", f"{theirs}.{naming.head_norm}.{kind}", (inner,), heads)
        for kind in ("weight", "bias")
    ]
    return table


def _channel_entries(config: RWKV7ChannelConfig, width: int, naming: Naming, ours: str, theirs: str) -> list[Entry]:
    vector = (1, 1, width) if naming.author else (width,)
    return [
        reshaped(f"{ours}.mix_key", f"{theirs}.x_k", vector, (width,)),
        Entry(f"{ours}.key.weight", f"{theirs}.key.weight", (config.hidden, width)),
        Entry(f"{ours}.value.weight", f"{theirs}.value.weight", (width, config.hidden)),
    ]
