"""The training options in a file of SwitchHead's training code (moe_attention): what they say, and what is refused.

Every option of that trainer is known here: it gives a fact, must have one of the values that we can rebuild, or does
not alter evaluation. An option of its namespaces that is not known is listed as an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from .facts import ASSUMED, Facts
from .options import ImportOptions

Arguments = Mapping[str, Any]

_FIELDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "heads": ("transformer.n_heads", (int,)),
    "active": ("moe.att.k", (int,)),
    "rope_fraction": ("rope.rotate_fraction", (int, float)),
    "rope_base": ("rope.base", (int, float)),
    "activation": ("transformer.activation", (str,)),
}


@dataclass(frozen=True)
class Rule:
    """Values of an option that we can rebuild.

    Attributes:
        name: the option.
        supported: its values.
        feature: what another value means; "{}" stands for the value.
        scope: "" for every model, or the feed-forward network that the option belongs to, "preln_moe".
    """

    name: str
    supported: tuple[Any, ...]
    feature: str
    scope: str = ""


# The variants of each layout: SwitchHead's own, and MoEUT's.
VARIANTS = {"switch-head": ("preln_moeatt", "preln_moe"), "moeut": ("preln_moe_universal",)}
_RULES = (
    Rule("transformer.activation", ("relu", "gelu"), "another nonlinearity of the feed-forward network"),
    Rule("transformer.ln_affine", (True,), "LayerNorms without weights", "preln_moe"),
    Rule("moe.att.enable", (True,), "dense softmax attention (moe.att.enable is off)", "preln_moe"),
    Rule("moe.att.variant", ("full", "full_rope"), "another attention than SwitchHead"),
    Rule("moe.att.q_expert", (False,), "experts in the query projection"),
    Rule("moe.att.k_expert", (False,), "experts in the key projection"),
    Rule("moe.att.v_expert", (True,), "dense values"),
    Rule("moe.att.o_expert", (True,), "a dense output projection"),
    Rule("moe.att.shared_experts", (False,), "experts shared between the heads (shared experts)"),
    Rule("moe.att.selection_mode", ("sigmoid",), "another routing"),
    Rule("moe.att.norm_ret", (False,), "a LayerNorm behind the attention", "preln_moe"),
    Rule("moe.selection_mode", ("sigmoid",), "another routing of the feed-forward network", "preln_moe"),
    Rule("moe.sel_norm", ("none",), "normalised routing", "preln_moe"),
    Rule("moe.topk_mode", ("full", "exact"), "approximate top-k, which chooses other experts", "preln_moe"),
    Rule("moe.bias", (False,), "biases in the experts", "preln_moe"),
    Rule("moe.sel_bias", (False,), "a bias in the routing", "preln_moe"),
    Rule("lm.trafo.norm_input", (False,), "a LayerNorm behind the embedding"),
    Rule("transformer.embedding_scale", (None,), "a scaled embedding"),
    Rule("embedding_size", (None,), "an embedding of another width than the model (embedding_adapter)"),
)
_FEATURES: dict[tuple[str, Any], str] = {
    ("transformer.variant", "preln_relative"): "dense softmax attention with Transformer-XL positions",
    ("transformer.variant", "preln_rope"): "dense softmax attention with RoPE",
    ("transformer.variant", "rope"): "dense softmax attention in post-norm layers",
    ("transformer.variant", "moe"): "post-norm layers",
    ("transformer.variant", "moe_universal"): "post-norm layers",
    ("transformer.variant", "preln_moe_universal"): "layers that share their weights (the layout moeut)",
    ("moe.att.variant", "moa"): "mixture of attention heads (MoA)",
    ("moe.att.selection_mode", "softmax"): "softmax routing of the attention's experts",
    ("moe.selection_mode", "gate"): "softmax routing (gate) of the feed-forward network's experts",
    ("moe.selection_mode", "mul"): "multiplicative routing of the feed-forward network's experts",
}

# Options that act on training, logging or sweeps alone, or on layers that a rule above refuses.
_WITHOUT_EFFECT = frozenset(
    [
        "lm.trafo.xl_init",
        "lm.trafo.embedding_mode_init",
        "lm.trafo.test_pos_clamp",
        "lm.state_drop_probability",
        "lm.lstm_weight_drop",
        "lm.example_context",
        "lm.example_window",
        "lm.eval.enabled",
        "moe.n_experts",
        "moe.expert_size",
        "moe.perplexity_reg",
        "moe.perplexity_reg_mode",
        "moe.reg_type",
        "moe.norm_keys",
        "moe.n_random",
        "moe.activation_after_topk",
        "moe.drop_parallel",
        "moe.norm_key_init",
        "moe.norm_value_init",
        "moe.identical_init",
        "moe.sel_lr_multipler",
        "moe.expert_lr_multipler",
        "moe.dropout_factor",
        "moe.drop_expert",
        "moe.sync_distributed",
        "moe.modulation_amplitude",
        "moe.init_scale",
        "moe.norm_expert_sel_init",
        "kvmem.dropout",
        "kvmem.norm_values",
        "transformer.topk_value",
        "transformer.p_drop_layer",
        "transformer.head_projection_size",
        "transformer.ln_after_attention",
        "transformer.ff_multiplier",
        "transformer.encoder_n_layers",
        "transformer.attention_dropout",
        "transformer.plot_head_details",
        "moe.att.n_experts",
        "moe.att.norm_qk",
        "moe.att.same_sel",
        "moe.att.expert_dropout",
        "moe.att.perplexity_reg",
        "moe.att.qside_n_experts",
        "moe.att.drop_expert",
        "moe.att.kq_n_experts",
        "moe.att.separate_kq_sel",
        "moe.att.norm_init",
        "moe.att.v_size",
        "moa.mode",
        "moa.cvloss",
        "moa.switchloss",
        "moa.zloss",
        "pkm.n_heads",
        "moe.att.expert_size",
        "moe.att.perplexity_reg_mode",
        "moe.att.dropout",
        "moe.att.selection_dropout",
        "moe.selection_dropout",
        "moe.layer_std_constant",
        "moe.nonorm",
        "moa.miloss",
        "transformer.act_loss",
        "transformer.universal.group_size",
        "transformer.universal.group_type",
        "lm.trafo.force_out_norm",
    ]
)
_WINDOW = (
    "lm.unroll",
    "lm.unroll_eval",
    "lm.trafo.context_blocks",
    "lm.trafo.test_context_blocks",
    "lm.trafo.same_length",
    "lm.trafo.same_length_eval",
    "lm.trafo.last_layer_context",
)
_NAMESPACES = ("moe.", "transformer.", "lm.", "rope.", "pkm.", "moa.", "kvmem.")


def options_from(arguments: Arguments, layout: str = "switch-head") -> ImportOptions:
    """Read the options that a training file stores beside its weights.

    Args:
        arguments: the dictionary `run_invariants.args` of the file; empty in a plain state dict.
        layout: "switch-head", or "moeut", whose training code has most of the same options.

    Raises:
        CheckpointError: it was trained with something that we cannot rebuild; the option is named.
    """
    variant = arguments.get("transformer.variant")
    for rule in (Rule("transformer.variant", VARIANTS[layout], "layers of another kind"), *_RULES):
        if rule.name in arguments and not (rule.scope and variant == "preln_moeatt"):
            _check(rule, arguments[rule.name])
    _check_sizes(arguments)
    values: dict[str, Any] = {}
    for field, (name, kinds) in _FIELDS.items():
        values[field] = _value(arguments, name, kinds)
    if variant != "preln_moeatt":
        values["feed_forward_active"] = _value(arguments, "pkm.n_heads", (int,))
    if layout == "moeut":
        values["layers"] = _value(arguments, "transformer.encoder_n_layers", (int,))
    return ImportOptions(**values, window=_window(arguments))


def _value(arguments: Arguments, name: str, kinds: tuple[type, ...]) -> Any:
    """Return an option's value, None where the file does not say it."""
    value = arguments.get(name)
    if int in kinds and type(value) is float and value.is_integer() and float not in kinds:
        return int(value)
    if value is not None and type(value) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise CheckpointError(f"the file was trained with {name} = {value!r}, which is no {wanted}")
    return value


def note_routing(arguments: Arguments, facts: Facts) -> None:
    """Record how experts are chosen, from the file or as an assumption, and every option that nobody knows."""
    for fact, name in (("routing", "moe.att.selection_mode"), ("topk_mode", "moe.topk_mode")):
        value = arguments.get(name)
        otherwise = "sigmoid" if fact == "routing" else "full"
        facts.note(fact, value or otherwise, "the file" if value else ASSUMED)
    known = {"transformer.variant", *_WITHOUT_EFFECT, *_WINDOW}
    known |= {rule.name for rule in _RULES} | {name for name, _ in _FIELDS.values()}
    for name in sorted(set(arguments) - known):
        if name.startswith(_NAMESPACES):
            facts.note(name, arguments[name], ASSUMED, "unknown to the importer: taken to alter nothing")


def _check(rule: Rule, value: Any) -> None:
    if value is None and None not in rule.supported:
        return
    as_switch = isinstance(rule.supported[0], bool) and isinstance(value, int)
    if (bool(value) if as_switch else value) in rule.supported:
        return
    feature = _FEATURES.get((rule.name, value if isinstance(value, str) else None), rule.feature)
    listed = ", ".join(repr(item) for item in rule.supported)
    raise CheckpointError(f"the file was trained with {rule.name} = {value!r}: {feature}; supported: {listed}")


def _check_sizes(arguments: Arguments) -> None:
    """Refuse sizes that differ between the two sides of the attention."""
    pairs = (
        ("moe.att.v_size", "transformer.head_projection_size", "values of another width than the queries"),
        ("moe.att.qside_n_experts", "moe.att.n_experts", "other numbers of output experts than of value experts"),
    )
    for name, base, feature in pairs:
        value, expected = arguments.get(name), arguments.get(base)
        if value is not None and value != expected:
            raise CheckpointError(f"the file was trained with {name} = {value!r}: {feature}; supported: {expected!r}")


def _window(arguments: Arguments) -> int | None:
    """Return the longest context that the model was evaluated with: its own block and those before it."""
    blocks = _value(arguments, "lm.trafo.test_context_blocks", (int,))
    blocks = _value(arguments, "lm.trafo.context_blocks", (int,)) if blocks is None else blocks
    length = _value(arguments, "lm.unroll_eval", (int,)) or _value(arguments, "lm.unroll", (int,))
    if blocks is None or length is None:
        return None
    if blocks < 0 or length < 1:
        raise CheckpointError(
            f"the file was trained with blocks of {length} tokens and {blocks} before them: no context"
        )
    if blocks and arguments.get("lm.trafo.last_layer_context"):
        raise CheckpointError(
            "the file was trained with lm.trafo.last_layer_context = True: layers that attend to the last layer of "
            "earlier blocks; supported: False"
        )
    same = arguments.get("lm.trafo.same_length") or arguments.get("lm.trafo.same_length_eval")
    return blocks * length + 1 if same and blocks else (blocks + 1) * length
