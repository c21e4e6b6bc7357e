"""The layout of Based (HazyResearch/based, arXiv:2402.18668): its GPT with three kinds of layers.

Gated short convolutions, linear attention by the second-order Taylor polynomial, and softmax attention in a sliding
window; which layer is of which kind is read off the names of its weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from ..config import LayerConfig, ModelConfig
from ..errors import CheckpointError
from ..feed_forward import GatedMLPConfig
from ..mixers import GatedConvolutionConfig, SoftmaxConfig, TaylorShiftConfig
from ..parts import MixerConfig
from .config_json import ConfigOptions
from .facts import Facts
from .mapping import Entry, at_least_single, count_layers, reshaped, shape_of, weight_and_bias
from .options import ImportOptions, OptionError

Weights = Mapping[str, torch.Tensor]
NORM_EPS = 1e-5
EMBEDDING = "transformer.embeddings.word_embeddings.weight"
OUTPUT = "lm_head.weight"
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "activation_function": (("swiglu", "geglu", "glu"), "another feed-forward network"),
    "fixed_decay": ((False, None), "a decay in the linear attention"),
    "parallel_block": ((False, None), "both branches of a layer in parallel"),
    "prenorm": ((True, None), "norms behind the branches"),
    "rotary_emb_interleaved": ((False, None), "RoPE over neighbouring channels"),
    "rotary_emb_scale_base": ((None,), "RoPE with a decay"),
    "scale_attn_weights": ((True, None), "attention without a scale"),
    "scale_attn_by_inverse_layer_idx": ((False, None), "a scale for every layer"),
    "n_head_kv": ((None,), "fewer heads of keys and values"),
    "word_embed_proj_dim": ((None,), "an embedding of another width than the model"),
    "mup_embeddings_multiplier": ((1.0, None), "a scaled embedding"),
    "mup_output_multiplier": ((1.0, None), "scaled logits"),
    "mlp_type": (("base", None), "another feed-forward network"),
}
_LINEAR = {  # options of the linear attention
    "feature_name": (("taylor_exp", None), "another feature map"),
    "use_rotary_apply": ((False, None), "RoPE in the linear attention"),
    "use_decay_proj": ((False, None), "a learned decay"),
    "use_output_gating": ((False, None), "a gate of the output"),
    "initial_conv": ((False, None), "a convolution in front of it"),
    "scale_dim": ((None,), "another scale of queries and keys"),
}
# Options that alter nothing, that the weights show, or that are read below.
_KNOWN = {
    "_target_", "alt_mixer", "alt_mixer_2", "alt_mixer_2_layers", "alt_mixer_layers", "attn_pdrop", "embd_pdrop",
    "ff_mult", "fused_bias_fc", "fused_dropout_add_ln", "fused_mlp", "layer_norm_epsilon", "mixer", "mlp_fc1_bias",
    "mlp_fc2_bias", "n_ctx", "n_head", "n_inner", "n_positions", "out_proj_bias", "pad_vocab_size_multiple",
    "qkv_proj_bias", "reorder_and_upcast_attn", "resid_pdrop", "residual_in_fp32", "rms_norm", "rotary_emb_base",
    "rotary_emb_fraction", "special_initializer", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "use_flash_attn",
}  # fmt: skip
CONFIG = ConfigOptions(
    frozenset({*_FIXED, *_KNOWN}), width="n_embd", layers="n_layer", vocabulary_multiple="pad_vocab_size_multiple"
)
_ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu", "glu": "sigmoid"}


def options_from(arguments: Mapping[str, Any]) -> ImportOptions:
    """Read a config.json; empty for weights without one.

    Raises:
        CheckpointError: it asks for something that we cannot rebuild.
    """
    if not arguments:
        return ImportOptions()
    mixers = [
        item for name in ("mixer", "alt_mixer", "alt_mixer_2") if isinstance(item := arguments.get(name), Mapping)
    ]
    _refuse({"activation_function": "gelu_new", **arguments}, _FIXED, "")
    linear = [item for item in mixers if "linear" in str(item.get("_target_", "")) or "feature_dim" in item]
    sliding = [item for item in mixers if "slid" in str(item.get("_target_", "")) or "window_size" in item]
    for item in linear:
        _refuse(item, _LINEAR, "linear attention: ")
        features = item.get("feature_map")
        target = str(
            features.get("_target_", "TaylorExp") if isinstance(features, Mapping) else features or "TaylorExp"
        )
        if target.rpartition(".")[2] != "TaylorExp":
            raise CheckpointError(f"config.json has feature_map {target}; supported: TaylorExp")
    heads = _only("layers of {} heads", [*(item.get("num_heads") for item in linear), arguments.get("n_head")])
    window = _only("windows of {} tokens", [item.get("window_size") for item in sliding])
    return ImportOptions(
        heads=heads,
        window=window // 2 + 1 if isinstance(window, int) else window,  # their kernel looks half of it back
        rope_fraction=arguments.get("rotary_emb_fraction", 0.0) if sliding else None,
        rope_base=arguments.get("rotary_emb_base"),
        activation=_ACTIVATIONS[arguments["activation_function"]],  # type: ignore[arg-type]
        norm_eps=arguments.get("layer_norm_epsilon"),
    )


def _only(what: str, values: list[Any]) -> Any:
    """Return the one value of several layers' option, None where none gives it."""
    given = [value for value in values if value]
    different = [value for place, value in enumerate(given) if value not in given[:place]]
    if len(different) > 1:
        raise CheckpointError(f"config.json has {what.format(different)}; supported: one for all layers")
    return different[0] if different else None


def _refuse(options: Mapping[str, Any], fixed: Mapping[str, tuple[tuple[Any, ...], str]], where: str) -> None:
    for name, (supported, feature) in fixed.items():
        value = options.get(name)
        if value not in supported:
            listed = ", ".join(repr(item) for item in supported if item is not None) or "null"
            raise CheckpointError(f"config.json has {where}{name} = {value!r}: {feature}; supported: {listed}")


def normalise(weights: Weights) -> dict[str, torch.Tensor]:
    """Reduce the variants of the layout to one: names without the trainer's prefix, and counters; a table held once.

    Queries, keys and values of a linear attention become one matrix, as ours are, under the name `proj_{q,k,v}`.
    """
    found = {name.removeprefix("model."): tensor for name, tensor in weights.items() if "_metrics." not in name}
    found = {name: tensor for name, tensor in found.items() if not re.search(r"\.(rotary_emb\.|inv_freq)", name)}
    if EMBEDDING not in found and OUTPUT in found:
        found[EMBEDDING] = found.pop(OUTPUT)  # a tied table is stored under one of its names
    for query in [name for name in found if name.endswith(".mixer.proj_q.weight")]:
        prefix = query.removesuffix("q.weight")
        names = [f"{prefix}{part}.weight" for part in "qkv"]
        if all(name in found for name in names):
            found[f"{prefix}{{q,k,v}}.weight"] = torch.cat([at_least_single(found.pop(name)) for name in names])
    return {re.sub(r"\.mixer\.conv1\.", ".mixer.conv.", name): tensor for name, tensor in found.items()}


def split(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """Undo what `normalise` did to the linear attention's matrices."""
    found = dict(weights)
    for index, layer in enumerate(config.layers):
        if isinstance(layer.mixer, TaylorShiftConfig):
            prefix = f"transformer.layers.{index}.mixer.proj_"
            whole = found.pop(f"{prefix}{{q,k,v}}.weight")
            inner = layer.mixer.heads * layer.mixer.head_width(config.width)
            parts = whole.split([inner, inner, whole.shape[0] - 2 * inner])
            found |= {f"{prefix}{name}.weight": part.contiguous() for name, part in zip("qkv", parts, strict=True)}
    return found


def read_config(weights: Weights, facts: Facts) -> ModelConfig:
    """Read the configuration off normalised weights.

    Raises:
        CheckpointError: a weight that the shapes are read from is missing, or belongs to something unsupported.
        OptionError: an option is missing or contradicts the file.
    """
    vocab_size, width = shape_of(weights, EMBEDDING, 2)
    if "transformer.embeddings.position_embeddings.weight" in weights:
        raise CheckpointError("the file has learned positions, which Based's published models have not")
    pattern = r"transformer\.layers\.(\d+)\."
    heads = facts.demand("heads", "the number of heads cannot be read off the weights: give heads, or a config.json")
    activation = facts.answer("activation", "silu")
    layers = []
    for index in range(count_layers(weights, pattern)):
        prefix = f"transformer.layers.{index}"
        network = GatedMLPConfig(
            hidden=shape_of(weights, f"{prefix}.mlp.fc2.weight", 2)[1],
            activation=activation,
            bias=f"{prefix}.mlp.fc1.bias" in weights,
        )
        layers.append(LayerConfig(_mixer(weights, f"{prefix}.mixer", width, heads, facts), network))
    output = weights.get(OUTPUT)
    return ModelConfig(
        task="language_model",
        width=width,
        layers=tuple(layers),
        vocab_size=vocab_size,
        norm_eps=facts.answer("norm_eps", NORM_EPS),
        norm_kind="layer" if "transformer.ln_f.bias" in weights else "rms",
        tie_embeddings=output is None or torch.equal(output, weights[EMBEDDING]),
        output_bias="lm_head.bias" in weights,
    )


def _mixer(weights: Weights, prefix: str, width: int, heads: int, facts: Facts) -> MixerConfig:
    if f"{prefix}.conv.conv.weight" in weights:
        channels, _, kernel = shape_of(weights, f"{prefix}.conv.conv.weight", 3)
        return GatedConvolutionConfig(
            kernel, channels, f"{prefix}.in_proj.bias" in weights, f"{prefix}.conv.conv.bias" in weights
        )
    if f"{prefix}.proj_{{q,k,v}}.weight" in weights:
        values = shape_of(weights, f"{prefix}.out_proj.weight", 2)[1]
        keys = (shape_of(weights, f"{prefix}.proj_{{q,k,v}}.weight", 2)[0] - values) // 2
        if keys % heads or values % heads:
            raise OptionError(f"heads is {heads}, but {prefix} has {keys} channels of keys and {values} of values")
        return TaylorShiftConfig(
            heads, keys // heads, causal=True, normalize=False, bias=False, value_dim=values // heads
        )
    if f"{prefix}.Wqkv.weight" not in weights:
        raise CheckpointError(
            f"{prefix} is none of Based's layers: it has neither conv.conv.weight, proj_q, proj_k and proj_v, nor Wqkv"
        )
    if width % heads:
        raise OptionError(f"heads is {heads}, which does not split the width {width}")
    window = facts.demand("window", "how many tokens the softmax layers see is not in the weights: give window")
    fraction = facts.answer("rope_fraction", 1.0)
    return SoftmaxConfig(
        heads=heads,
        positions="rope" if fraction else "none",
        rope_base=facts.answer("rope_base", 10000.0),
        bias=f"{prefix}.Wqkv.bias" in weights,
        window=window or None,
        rope_fraction=fraction or 1.0,
    )


def entries(config: ModelConfig) -> list[Entry]:
    """Return the table between our names and the authors' normalised ones for a model of this configuration."""
    width = config.width
    table = [Entry("embedding.weight", EMBEDDING, (config.vocab_size, width))]
    for index, layer in enumerate(config.layers):
        ours, theirs = f"layers.{index}", f"transformer.layers.{index}"
        table += _norm(config, f"{ours}.norm1", f"{theirs}.norm1")
        table += _mixer_entries(layer.mixer, width, f"{ours}.mixer", f"{theirs}.mixer")
        table += _norm(config, f"{ours}.norm2", f"{theirs}.norm2")
        network = layer.feed_forward
        assert isinstance(network, GatedMLPConfig)
        for own, name, shape in (
            ("up", "fc1", (2 * network.hidden, width)),
            ("down", "fc2", (width, network.hidden)),
        ):
            both = weight_and_bias(f"{ours}.feed_forward.{own}", f"{theirs}.mlp.{name}", shape)
            table += both if network.bias else both[:1]
    table += _norm(config, "norm", "transformer.ln_f")
    if not config.tie_embeddings:
        table.append(Entry("output.weight", OUTPUT, (config.vocab_size, width)))
    if config.output_bias:
        table.append(Entry("output.bias", "lm_head.bias", (config.vocab_size,)))
    return table


def _norm(config: ModelConfig, ours: str, theirs: str) -> list[Entry]:
    both = weight_and_bias(ours, theirs, (config.width,))
    return both if config.norm_kind == "layer" else both[:1]


def _mixer_entries(mixer: MixerConfig, width: int, ours: str, theirs: str) -> list[Entry]:
    if isinstance(mixer, GatedConvolutionConfig):
        return _convolution_entries(mixer, width, ours, theirs)
    if isinstance(mixer, TaylorShiftConfig):
        keys, values = mixer.heads * mixer.head_width(width), mixer.heads * (mixer.value_dim or 0)
        scale = mixer.head_width(width) ** -0.5  # of their queries and keys together; ours have none

        def scaled(tensor: torch.Tensor, factor: float) -> torch.Tensor:
            return torch.cat((tensor[:keys] * factor, tensor[keys:]))

        return [
            Entry(
                f"{ours}.qkv.weight",
                f"{theirs}.proj_{{q,k,v}}.weight",
                (2 * keys + values, width),
                lambda tensor: scaled(tensor, scale),
                lambda tensor: scaled(tensor, 1 / scale),
            ),
            Entry(f"{ours}.proj.weight", f"{theirs}.out_proj.weight", (width, values)),
        ]
    assert isinstance(mixer, SoftmaxConfig)
    table = []
    for own, name, shape in (("qkv", "Wqkv", (3 * width, width)), ("proj", "out_proj", (width, width))):
        both = weight_and_bias(f"{ours}.{own}", f"{theirs}.{name}", shape)
        table += both if mixer.bias else both[:1]
    return table


def _convolution_entries(mixer: GatedConvolutionConfig, width: int, ours: str, theirs: str) -> list[Entry]:
    channels, kernel = mixer.channels or 2 * width, mixer.kernel
    table = []
    for own, name, shape in (
        ("input", "in_proj", (2 * channels, width)),
        ("output", "out_proj", (width, channels)),
    ):
        both = weight_and_bias(f"{ours}.{own}", f"{theirs}.{name}", shape)
        table += both if mixer.bias else both[:1]
    table.append(reshaped(f"{ours}.taps", f"{theirs}.conv.conv.weight", (channels, 1, kernel), (channels, kernel)))
    if mixer.convolution_bias:
        table.append(Entry(f"{ours}.taps_bias", f"{theirs}.conv.conv.bias", (channels,)))
    return table
