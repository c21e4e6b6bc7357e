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
from .facts import Facts
from .mapping import Entry, count_layers, reshaped, shape_of, weight_and_bias
from .options import OptionError

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


def refuse_features(weights: Weights, naming: Naming) -> None:
    """Refuse, by name, what the training code can do besides and our models cannot.

    Raises:
        CheckpointError: names or shapes of the first layer are those of such a feature.
    """
    prefix = f"{naming.layer(0)}.self_attn."
    names = naming.attention
    complaint = None
    if "embedding_adapter.weight" in weights:
        complaint = "an embedding of another width than the model (embedding_adapter, option embedding_size)"
    elif prefix + "norm_ret.weight" in weights:
        complaint = "a LayerNorm behind the attention (norm_ret, option moe.att.norm_ret)"
    elif prefix + "selections.q" in weights or prefix + "selections.k" in weights:
        complaint = "experts in the query or key projections (moe.att.q_expert, moe.att.k_expert)"
    else:
        value, output = (weights.get(prefix + name) for name in (names.value, names.output))
        routing = weights.get(prefix + names.destination)
        if value is not None and output is not None and value.dim() != output.dim():
            dense = "values" if value.dim() == 2 else "output projection"
            complaint = f"dense {dense} beside experts (moe.att.v_expert, moe.att.o_expert)"
        elif value is not None and value.dim() == 3 and routing is not None and routing.shape[0] != value.shape[0]:
            complaint = "experts shared between the heads (shared experts, option moe.att.shared_experts)"
    if complaint:
        raise CheckpointError(
            f"the file has {complaint}: that is not supported; supported are experts of their own for each head in "
            "the value and output projections, with dense queries and keys"
        )


def read_config(weights: Weights, naming: Naming, facts: Facts) -> ModelConfig:
    """Read the configuration off the weights.

    Raises:
        CheckpointError: a weight that the shapes are read from is missing or contradicts another.
        OptionError: an option is missing or contradicts the file.
    """
    vocab_size, width = shape_of(weights, "embedding.weight", 2)
    first = naming.layer(0)
    layer = LayerConfig(
        mixer=read_attention_config(weights, f"{first}.self_attn.", naming.attention, facts),
        feed_forward=_read_feed_forward(weights, first, facts),
    )
    output = weights.get("output.weight")
    return ModelConfig(
        task="language_model",
        width=width,
        layers=(layer,) * count_layers(weights, rf"{naming.outer}\.(\d+)\."),
        vocab_size=vocab_size,
        norm_eps=facts.answer("norm_eps", NORM_EPS),
        tie_embeddings=output is not None and torch.equal(output, weights["embedding.weight"]),
        output_bias="output.bias" in weights,
    )


def read_attention_config(weights: Weights, prefix: str, names: AttentionNames, facts: Facts) -> SwitchHeadConfig:
    """Read an attention layer's configuration off its weights.

    Heads follow from the width of a head, which expert weights show, or from the output gates of a dense layer.

    Raises:
        CheckpointError: a weight that the shapes are read from is missing or contradicts another.
        OptionError: `active` is missing, or an option contradicts the file.
    """
    heads, experts, head_dim = _read_heads(weights, prefix, names)
    facts.read("heads", heads, f"the file's weights are those of {heads} heads")
    active = _active(facts, "active", experts)
    positions = _positions(weights, prefix + names.position, facts)
    rope: dict[str, Any] = {}
    if positions == "rope":
        rope = {"rope_fraction": _rope_fraction(facts, head_dim), "rope_base": facts.answer("rope_base", 10000.0)}
    return SwitchHeadConfig(
        heads=heads,
        head_dim=head_dim,
        experts=experts,
        active=active,
        positions=positions,
        same_selection=experts > 1 and prefix + names.source not in weights,
        window=facts.answer("window", 0) or None,
        **rope,
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


def _active(facts: Facts, name: str, experts: int) -> int:
    if experts == 1:
        return 1
    active: int = facts.demand(
        name, f"how many of the {experts} experts are used per token cannot be read off the weights: give {name}"
    )
    return active


def _rope_fraction(facts: Facts, head_dim: int) -> float:
    fraction: float = facts.answer("rope_fraction", 0.5)
    channels = int(fraction * head_dim)
    if channels % 2:
        raise OptionError(f"RoPE turns pairs of channels, but {fraction} of {head_dim} are {channels}")
    return fraction


def _positions(weights: Weights, name: str, facts: Facts) -> Any:
    if name not in weights:
        return facts.answer("positions", "rope")
    return facts.read("positions", "xl", f"the file has {name}: its positions are relative")


def _read_feed_forward(weights: Weights, prefix: str, facts: Facts) -> MLPConfig | MoEConfig:
    if f"{prefix}.pkm.keys" in weights:
        return read_experts(weights, f"{prefix}.pkm", facts)
    hidden = shape_of(weights, f"{prefix}.linear1.weight", 2)[0]
    return MLPConfig(hidden=hidden, activation=facts.answer("activation", "relu"))


def read_experts(weights: Weights, prefix: str, facts: Facts) -> MoEConfig:
    """Read a sigma-MoE network's configuration off its weights.

    Raises:
        CheckpointError, OptionError: as `read_attention_config`.
    """
    activation = facts.answer("activation", "relu")
    if activation not in ("relu", "gelu", "gelu_tanh"):
        raise OptionError(
            f"activation is {activation!r}, but experts of SwitchAll's feed-forward network use relu, gelu or gelu_tanh"
        )
    experts, _, expert_width = shape_of(weights, f"{prefix}.keys", 3)
    active = _active(facts, "feed_forward_active", experts)
    return MoEConfig(experts=experts, active=active, expert_width=expert_width, activation=activation)


def _layer_entries(index: int, layer: LayerConfig, width: int, naming: Naming) -> list[Entry]:
    ours, theirs = f"layers.{index}", naming.layer(index)
    assert isinstance(layer.mixer, SwitchHeadConfig)
    table = weight_and_bias(f"{ours}.norm1", f"{theirs}.norm1", (width,))
    table += attention_entries(layer.mixer, width, naming.attention, f"{ours}.mixer.", f"{theirs}.self_attn.")
    table += weight_and_bias(f"{ours}.norm2", f"{theirs}.norm2", (width,))
    if isinstance(layer.feed_forward, MoEConfig):
        return table + moe_entries(layer.feed_forward, width, f"{ours}.feed_forward", f"{theirs}.pkm")
    assert isinstance(layer.feed_forward, MLPConfig)
    hidden = layer.feed_forward.hidden
    table += weight_and_bias(f"{ours}.feed_forward.up", f"{theirs}.linear1", (hidden, width))
    return table + weight_and_bias(f"{ours}.feed_forward.down", f"{theirs}.linear2", (width, hidden))


def moe_entries(config: MoEConfig, width: int, ours: str, theirs: str) -> list[Entry]:
    """Return the table of a sigma-MoE network, whose names are `theirs` and keys, values and expert_sel."""
    experts, inner = config.experts, config.expert_width
    return [
        Entry(f"{ours}.router.weight", f"{theirs}.expert_sel", (experts, width)),
        Entry(f"{ours}.up.weight", f"{theirs}.keys", (experts, width, inner)),
        Entry(f"{ours}.down.weight", f"{theirs}.values", (experts, inner, width)),
    ]
