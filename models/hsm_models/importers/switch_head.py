"""The layouts of SwitchHead's authors: their package (RobertCsordas/switchhead) and training code (…/moe_attention).

The package holds one attention layer; the training code holds whole language models, SwitchAll's among them. Both
name the same weights differently, and older training code says `layers` where the newer says `unique_layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..config import LayerConfig, ModelConfig
from ..errors import CheckpointError
from ..feed_forward import MLPConfig, MoEConfig
from ..mixers import SwitchHeadConfig
from .mapping import Entry, count_layers, reshaped, shape_of, weight_and_bias
from .options import ImportOptions, OptionError

Weights = Mapping[str, torch.Tensor]
NORM_EPS = 1e-5
OUTER_NAMES = ("unique_layers", "layers")
# Persistent counters of the training code: no weights.
STATISTICS = ("pkm.kv_sel_counts_100", "pkm.iter")


@dataclass(frozen=True)
class AttentionNames:
    """What one of the authors' codes calls the weights of an attention layer."""

    query: str
    key: str
    value: str
    output: str
    source: str
    destination: str
    position: str = "pos_to_pk"


PACKAGE = AttentionNames("q.weight", "k.weight", "v", "o", "sel_v", "sel_o")
TRAINING = AttentionNames(
    "projections.q", "projections.k", "projections.v", "projections.o", "selections.v", "selections.o"
)


@dataclass(frozen=True)
class Naming:
    """Which of the authors' names a file uses.

    Attributes:
        outer: name of the list of layers.
        attention: names inside an attention layer.
    """

    outer: str = "unique_layers"
    attention: AttentionNames = TRAINING

    def layer(self, index: int) -> str:
        """Return the prefix of a layer."""
        return f"{self.outer}.{index}"


def find_naming(weights: Weights) -> Naming:
    """Tell which names a whole model's file uses.

    Raises:
        CheckpointError: none of the known ones; a lone attention layer gets its own explanation.
    """
    if PACKAGE.query in weights and PACKAGE.value in weights:
        raise CheckpointError(
            "the file holds a single attention layer of the authors' package, not a whole model; load it in Python "
            "with hsm_models.importers.load_attention and export the module that uses it"
        )
    for outer in OUTER_NAMES:
        for names in (TRAINING, PACKAGE):
            if f"{outer}.0.self_attn.{names.query}" in weights:
                return Naming(outer, names)
    some = ", ".join(sorted(weights)[:5])
    raise CheckpointError(
        f"the weights do not fit the layout; missing: unique_layers.0.self_attn.projections.q (the file has {some}, …)"
    )


def options_from(arguments: Mapping[str, Any]) -> ImportOptions:
    """Read the options that a training file stores beside its weights.

    Raises:
        CheckpointError: it was trained with something that we cannot rebuild.
    """
    for name, supported in _SUPPORTED.items():
        value = arguments.get(name)
        if value is not None and value not in supported:
            raise CheckpointError(f"the file was trained with {name} = {value!r}; only {supported[0]!r} is supported")
    values: dict[str, Any] = {}
    for field, (name, kinds) in _ARGUMENTS.items():
        value = arguments.get(name)
        if type(value) in kinds:
            values[field] = value
    return ImportOptions(**values)


def read_config(weights: Weights, naming: Naming, options: ImportOptions) -> ModelConfig:
    """Read the configuration off the weights.

    Raises:
        CheckpointError: a weight that the shapes are read from is missing or contradicts another.
        OptionError: an option is missing or contradicts the file.
    """
    vocab_size, width = shape_of(weights, "embedding.weight", 2)
    first = naming.layer(0)
    layer = LayerConfig(
        mixer=read_attention_config(weights, f"{first}.self_attn.", naming.attention, options),
        feed_forward=_read_feed_forward(weights, first, options),
    )
    output = weights.get("output.weight")
    return ModelConfig(
        task="language_model",
        width=width,
        layers=(layer,) * count_layers(weights, rf"{naming.outer}\.(\d+)\."),
        vocab_size=vocab_size,
        norm_eps=NORM_EPS,
        tie_embeddings=output is not None and torch.equal(output, weights["embedding.weight"]),
        output_bias="output.bias" in weights,
    )


def read_attention_config(
    weights: Weights, prefix: str, names: AttentionNames, options: ImportOptions
) -> SwitchHeadConfig:
    """Read an attention layer's configuration off its weights.

    Heads follow from the width of a head, which expert weights show, or from the output gates of a dense layer.

    Raises:
        CheckpointError: a weight that the shapes are read from is missing or contradicts another.
        OptionError: `active` is missing, or an option contradicts the file.
    """
    heads, experts, head_dim = _read_heads(weights, prefix, names)
    if options.heads is not None and options.heads != heads:
        raise OptionError(f"heads is {options.heads}, but the file's weights are those of {heads} heads")
    return SwitchHeadConfig(
        heads=heads,
        head_dim=head_dim,
        experts=experts,
        active=_active(options.active, experts, "active"),
        positions=_positions(weights, prefix + names.position, options),
        rope_fraction=_rope_fraction(options, head_dim),
        rope_base=10000.0 if options.rope_base is None else options.rope_base,
        same_selection=experts > 1 and prefix + names.source not in weights,
    )


def entries(config: ModelConfig, naming: Naming | None = None) -> list[Entry]:
    """Return the table between our names and the authors' for a language model of this configuration."""
    naming = naming or Naming()
    width = config.width
    table = [Entry("embedding.weight", "embedding.weight", (config.vocab_size, width))]
    for index, layer in enumerate(config.layers):
        table += _layer_entries(index, layer, width, naming)
    table += weight_and_bias("norm", "out_norm", (width,))
    if not config.tie_embeddings:
        table.append(Entry("output.weight", "output.weight", (config.vocab_size, width)))
    if config.output_bias:
        table.append(Entry("output.bias", "output.bias", (config.vocab_size,)))
    return table


def attention_entries(
    config: SwitchHeadConfig, width: int, names: AttentionNames, ours: str = "", theirs: str = ""
) -> list[Entry]:
    """Return the table of one attention layer, with prefixes in front of both sides' names."""
    heads, experts = config.heads, config.experts
    head_dim = config.head_width(width)
    rows, copies = heads * head_dim, heads * experts
    routing = (copies, width)
    table = [
        Entry(f"{ours}query.weight", f"{theirs}{names.query}", (rows, width)),
        Entry(f"{ours}key.weight", f"{theirs}{names.key}", (rows, width)),
    ]
    value, output = (
        (f"{ours}value.weight", f"{theirs}{names.value}"),
        (f"{ours}output.weight", f"{theirs}{names.output}"),
    )
    if experts == 1:
        table += [Entry(*value, (rows, width)), Entry(*output, (width, rows))]
        table.append(Entry(f"{ours}destination.weight", f"{theirs}{names.destination}", routing))
    else:
        table.append(reshaped(*value, (copies, width, head_dim), (heads, experts, width, head_dim)))
        table.append(reshaped(*output, (copies, head_dim, width), (heads, experts, head_dim, width)))
        # With one selection for both sides, the authors keep the destination's name and we the source's.
        source = names.destination if config.same_selection else names.source
        table.append(Entry(f"{ours}source.weight", f"{theirs}{source}", routing))
        if not config.same_selection:
            table.append(Entry(f"{ours}destination.weight", f"{theirs}{names.destination}", routing))
    if config.positions == "xl":
        table.append(Entry(f"{ours}position.weight", f"{theirs}{names.position}", (rows, width)))
    return table


def ignored_names(config: ModelConfig, naming: Naming) -> set[str]:
    """Return the names in a file that carry no weights, or the same weights again."""
    statistics = {f"{naming.layer(index)}.{name}" for index in range(len(config.layers)) for name in STATISTICS}
    return statistics | ({"output.weight"} if config.tie_embeddings else set())


_ARGUMENTS: dict[str, tuple[str, tuple[type, ...]]] = {
    "heads": ("transformer.n_heads", (int,)),
    "active": ("moe.att.k", (int,)),
    "feed_forward_active": ("pkm.n_heads", (int,)),
    "rope_fraction": ("rope.rotate_fraction", (int, float)),
    "rope_base": ("rope.base", (int, float)),
    "activation": ("transformer.activation", (str,)),
}
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "transformer.variant": ("preln_moeatt", "preln_moe"),
    "transformer.activation": ("relu", "gelu"),
    "moe.att.selection_mode": ("sigmoid",),
    "moe.selection_mode": ("sigmoid",),
    "moe.sel_norm": ("none",),
}


def _read_heads(weights: Weights, prefix: str, names: AttentionNames) -> tuple[int, int, int]:
    """Return the number of heads, the experts per head and the width of a head."""
    rows = shape_of(weights, prefix + names.query, 2)[0]
    value = weights.get(prefix + names.value)
    if value is not None and value.dim() == 3:
        copies, _, head_dim = shape_of(weights, prefix + names.value, 3)
        heads = rows // head_dim
    else:
        copies = heads = shape_of(weights, prefix + names.destination, 2)[0]
        head_dim = rows // heads
    if heads * head_dim != rows or heads == 0 or copies % heads:
        raise CheckpointError(
            f"{prefix}{names.query} has {rows} rows, which do not split into heads of width {head_dim} "
            f"with {copies} experts in all"
        )
    if value is not None and value.dim() == 3 and copies == heads:
        raise CheckpointError(f"{prefix}{names.value} holds one routed expert per head, which has no dense equivalent")
    return heads, copies // heads, head_dim


def _active(active: int | None, experts: int, name: str) -> int:
    if experts == 1:
        return 1
    if active is None:
        raise OptionError(
            f"how many of the {experts} experts are used per token cannot be read off the weights: give {name}"
        )
    return active


def _rope_fraction(options: ImportOptions, head_dim: int) -> float:
    fraction = 0.5 if options.rope_fraction is None else options.rope_fraction
    channels = int(fraction * head_dim)
    if channels % 2 and options.positions != "none":
        raise OptionError(f"RoPE turns pairs of channels, but {fraction} of {head_dim} are {channels}")
    return fraction


def _positions(weights: Weights, name: str, options: ImportOptions) -> Any:
    if name not in weights:
        return options.positions or "rope"
    if options.positions is not None:
        raise OptionError(f"positions is {options.positions!r}, but the file has {name}: its positions are relative")
    return "xl"


def _read_feed_forward(weights: Weights, prefix: str, options: ImportOptions) -> MLPConfig | MoEConfig:
    activation = options.activation or "relu"
    if f"{prefix}.pkm.keys" not in weights:
        return MLPConfig(hidden=shape_of(weights, f"{prefix}.linear1.weight", 2)[0], activation=activation)
    if activation != "relu":
        raise OptionError(f"activation is {activation!r}, but the experts of SwitchAll's feed-forward network use relu")
    experts, _, expert_width = shape_of(weights, f"{prefix}.pkm.keys", 3)
    active = _active(options.feed_forward_active, experts, "feed_forward_active")
    return MoEConfig(experts=experts, active=active, expert_width=expert_width)


def _layer_entries(index: int, layer: LayerConfig, width: int, naming: Naming) -> list[Entry]:
    ours, theirs = f"layers.{index}", naming.layer(index)
    assert isinstance(layer.mixer, SwitchHeadConfig)
    table = weight_and_bias(f"{ours}.norm1", f"{theirs}.norm1", (width,))
    table += attention_entries(layer.mixer, width, naming.attention, f"{ours}.mixer.", f"{theirs}.self_attn.")
    table += weight_and_bias(f"{ours}.norm2", f"{theirs}.norm2", (width,))
    if isinstance(layer.feed_forward, MoEConfig):
        return table + _moe_entries(layer.feed_forward, width, f"{ours}.feed_forward", f"{theirs}.pkm")
    assert isinstance(layer.feed_forward, MLPConfig)
    hidden = layer.feed_forward.hidden
    table += weight_and_bias(f"{ours}.feed_forward.up", f"{theirs}.linear1", (hidden, width))
    return table + weight_and_bias(f"{ours}.feed_forward.down", f"{theirs}.linear2", (width, hidden))


def _moe_entries(config: MoEConfig, width: int, ours: str, theirs: str) -> list[Entry]:
    experts, inner = config.experts, config.expert_width
    return [
        Entry(f"{ours}.router.weight", f"{theirs}.expert_sel", (experts, width)),
        Entry(f"{ours}.up.weight", f"{theirs}.keys", (experts, width, inner)),
        Entry(f"{ours}.down.weight", f"{theirs}.values", (experts, inner, width)),
    ]
