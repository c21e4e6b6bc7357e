"""Importers: checkpoints in the layouts of TaylorShift's, SwitchHead's and their relatives' authors become ours.

    imported = read_authors_model("checkpoint.tar", "taylor-shift")
    model = build_model(imported.config)
    model.load_state_dict(imported.weights)

Nothing in a file is executed, and every name in it is used or the import fails.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..config import ModelConfig
from . import (
    based,
    config_json,
    moeut,
    rwkv7,
    sigma_moe,
    switch_head,
    switch_head_arguments,
    taylor_shift,
    taylor_shift_arguments,
)
from .facts import EFFECTS, OPTIONS, WEIGHTS, Fact, Facts
from .mapping import Entry, to_ours, to_theirs
from .options import LAYOUTS, PRESETS, ImportOptions, Layout, OptionError, QueryScale, check_preset
from .state_file import StateFile, read_state_file, without_prefix

if TYPE_CHECKING:
    from ..mixers import SwitchHead

__all__ = [
    "LAYOUTS",
    "PRESETS",
    "Fact",
    "ImportOptions",
    "ImportedModel",
    "Layout",
    "OptionError",
    "convert",
    "load_attention",
    "read_authors_model",
    "read_state_file",
    "to_authors_layout",
]


@dataclass(frozen=True)
class ImportedModel:
    """A model in our layout.

    Attributes:
        config: what the weights belong to.
        weights: the state dict, float32, or float64 where the file's is.
        names: our name of each weight, and the authors' name that it came from.
        ignored: names in the file that carry no weights of their own (counters, a tied output).
        facts: what the weights do not show, with the origin of each answer; those that nobody gave are `assumed`.
    """

    config: ModelConfig
    weights: dict[str, torch.Tensor]
    names: dict[str, str]
    ignored: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()


def read_authors_model(
    path: str | Path, layout: Layout, options: ImportOptions | None = None, preset: str | None = None
) -> ImportedModel:
    """Read a whole model from an authors' file.

    Args:
        path: a training file, a plain state dict, a safetensors file, or a folder with config.json and safetensors
            files, as transformers writes them.
        layout: one of `LAYOUTS`.
        options: what the file does not show.
        preset: a published configuration that the file must have; see `PRESETS`.

    Raises:
        CheckpointError: an unreadable or hostile file, or one whose names or shapes do not fit the layout.
        OptionError: an option is missing, unknown, or contradicts the file or the preset.
    """
    return convert(read_state_file(path, options.weights_key if options else None), layout, options, preset)


def convert(
    file: StateFile, layout: Layout, options: ImportOptions | None = None, preset: str | None = None
) -> ImportedModel:
    """Translate what was read from an authors' file; arguments and errors as in `read_authors_model`."""
    facts = _gather(file, layout, options or ImportOptions(), preset)
    weights, prefix = without_prefix(file.weights, _ANCHORS[layout])
    if file.others:
        facts.answer("weights_key", file.key, f"{EFFECTS['weights_key']}; it also holds {', '.join(file.others)}")
    if prefix:
        facts.note("prefix", prefix, WEIGHTS)
    imported = _CONVERTERS[layout](replace(file, weights=weights), facts)
    if preset is not None:
        check_preset(preset, imported.config)
    return imported


def to_authors_layout(
    weights: Mapping[str, torch.Tensor],
    config: ModelConfig,
    layout: Layout,
    naming: switch_head.Naming | None = None,
    query_scale: QueryScale | None = None,
) -> dict[str, torch.Tensor]:
    """Translate our weights into the authors' names and shapes, the inverse of `convert`.

    Args:
        weights: the state dict of a model with this configuration.
        config: a configuration that an import returned, or one of its form.
        layout: one of `LAYOUTS`.
        naming: which of SwitchHead's names to use; the newest training code's by default.
        query_scale: the factor that un-normalised TaylorShift's queries will meet in the authors' code.

    Raises:
        CheckpointError: names missing from `weights` or left over in it.
        OptionError: un-normalised TaylorShift without query_scale.
    """
    if layout == "taylor-shift":
        table = taylor_shift.entries(config, query_scale)
        return to_theirs(table, taylor_shift.without_position_row(weights) if config.image is None else weights)
    tables = {"moeut": moeut.entries, "sigma-moe": sigma_moe.entries, "rwkv7": rwkv7.entries}
    if layout == "based":
        return based.split(to_theirs(based.entries(config), weights), config)
    if layout in tables:
        return to_theirs(tables[layout](config), weights)
    theirs = to_theirs(switch_head.entries(config, naming), weights)
    if config.tie_embeddings:
        theirs["output.weight"] = theirs["embedding.weight"]
    return theirs


def load_attention(
    source: str | Path | Mapping[str, torch.Tensor], options: ImportOptions | None = None, prefix: str = ""
) -> SwitchHead:
    """Make a SwitchHead module from a single attention layer of the authors' package.

    Args:
        source: a file, or a state dict that is already in memory.
        options: what the weights do not show; `active` is needed with more than one expert.
        prefix: what stands before the layer's names, such as "blocks.3.attention."; other names are not looked at.

    Returns:
        The module in evaluation mode, mapping (B,T,D) to (B,T,D).

    Warns:
        UserWarning: facts were assumed; it lists them.

    Raises:
        CheckpointError, OptionError: as `read_authors_model`.
    """
    from ..mixers import SwitchHead

    weights = dict(source) if isinstance(source, Mapping) else read_state_file(source).weights
    own = {name: tensor for name, tensor in weights.items() if name.startswith(prefix)}
    names = switch_head.TRAINING if prefix + switch_head.TRAINING.query in own else switch_head.PACKAGE
    facts = Facts((OPTIONS, options or ImportOptions()))
    config = switch_head.read_attention_config(own, prefix, names, facts)
    assumed = [
        f"{fact.name} = {fact.value} ({fact.effect})"
        for fact in facts.answers()
        if fact.assumed and fact.name != "window"
    ]
    if assumed:
        warnings.warn(f"assumed, because the weights do not show it: {'; '.join(assumed)}", stacklevel=2)
    width = own[prefix + names.query].shape[1]
    translated = to_ours(switch_head.attention_entries(config, width, names, theirs=prefix), own)
    attention = SwitchHead(width, config)
    attention.load_state_dict(translated, assign=True)
    return attention.eval()


def _gather(file: StateFile, layout: Layout, options: ImportOptions, preset: str | None) -> Facts:
    if layout not in LAYOUTS:
        raise OptionError(f"the layout {layout!r} is unknown; known are {', '.join(LAYOUTS)}")
    sources = [(OPTIONS, options)]
    if preset is not None:
        if preset not in PRESETS or PRESETS[preset].layout != layout:
            known = ", ".join(name for name, item in PRESETS.items() if item.layout == layout)
            raise OptionError(f"the preset {preset!r} is unknown for the layout {layout}; known are {known}")
        sources.append((f"the preset {preset}", PRESETS[preset].options))
    return Facts(*sources, ("the file", _READERS[layout](file.arguments)))


def _convert_taylor_shift(file: StateFile, facts: Facts) -> ImportedModel:
    taylor_shift.refuse_features(file.weights)
    weights = taylor_shift.normalise(file.weights)
    config = taylor_shift.read_config(weights, facts)
    return _translate(taylor_shift.entries(config, facts.given("query_scale")), weights, config, set(), facts)


def _convert_switch_head(file: StateFile, facts: Facts) -> ImportedModel:
    naming = switch_head.find_naming(file.weights)
    switch_head.refuse_features(file.weights, naming)
    switch_head_arguments.note_routing(file.arguments, facts)
    config = switch_head.read_config(file.weights, naming, facts)
    table = switch_head.entries(config, naming)
    return _translate(table, file.weights, config, switch_head.ignored_names(config, naming), facts)


def _convert_moeut(file: StateFile, facts: Facts) -> ImportedModel:
    moeut.check_arguments(file.arguments)
    naming = moeut.find_naming(file.weights)
    switch_head_arguments.note_routing(file.arguments, facts)
    config = moeut.read_config(file.weights, naming, facts)
    table = moeut.entries(config, naming)
    return _translate(table, file.weights, config, moeut.ignored_names(config, naming), facts)


def _convert_sigma_moe(file: StateFile, facts: Facts) -> ImportedModel:
    weights = sigma_moe.normalise(file.weights)
    config = sigma_moe.read_config(weights, facts)
    config_json.check(file.arguments, sigma_moe.CONFIG, config, "lm_head.weight" in weights, facts)
    ignored = {"lm_head.weight"} if config.tie_embeddings else set()
    return _translate(sigma_moe.entries(config), weights, config, ignored, facts)


def _convert_rwkv7(file: StateFile, facts: Facts) -> ImportedModel:
    naming = rwkv7.find_naming(file.weights)
    config = rwkv7.read_config(file.weights, naming, facts)
    config_json.check(file.arguments, rwkv7.CONFIG, config, f"{naming.output}.weight" in file.weights, facts)
    ignored = rwkv7.ignored_names(file.weights, naming)
    return _translate(rwkv7.entries(config, naming), file.weights, config, ignored, facts)


def _convert_based(file: StateFile, facts: Facts) -> ImportedModel:
    weights = based.normalise(file.weights)
    config = based.read_config(weights, facts)
    # Its code ties the table whatever transformers' option says.
    config_json.check(file.arguments | {"tie_word_embeddings": None}, based.CONFIG, config, True, facts)
    ignored = {"lm_head.weight"} if config.tie_embeddings else set()
    return _translate(based.entries(config), weights, config, ignored, facts)


_CONVERTERS: dict[Layout, Callable[[StateFile, Facts], ImportedModel]] = {
    "taylor-shift": _convert_taylor_shift,
    "switch-head": _convert_switch_head,
    "moeut": _convert_moeut,
    "sigma-moe": _convert_sigma_moe,
    "rwkv7": _convert_rwkv7,
    "based": _convert_based,
}
# Names of which each model of a layout has one: what stands before them is a prefix.
_ANCHORS: dict[Layout, tuple[str, ...]] = {
    "taylor-shift": ("cls_token",),
    "switch-head": ("embedding.weight", switch_head.PACKAGE.query),
    "moeut": ("embedding.weight",),
    "sigma-moe": ("model.embed_tokens.weight",),
    "rwkv7": (f"{rwkv7.AUTHOR.embedding}.weight", f"{rwkv7.TRANSFORMERS.embedding}.weight"),
    "based": (based.EMBEDDING, f"model.{based.EMBEDDING}", based.OUTPUT),
}
_READERS: dict[Layout, Callable[[Mapping[str, Any]], ImportOptions]] = {
    "taylor-shift": taylor_shift_arguments.options_from,
    "switch-head": switch_head_arguments.options_from,
    "moeut": partial(switch_head_arguments.options_from, layout="moeut"),
    "sigma-moe": sigma_moe.options_from,
    "rwkv7": rwkv7.options_from,
    "based": based.options_from,
}


def _translate(
    table: list[Entry], weights: Mapping[str, torch.Tensor], config: ModelConfig, ignored: set[str], facts: Facts
) -> ImportedModel:
    names = {entry.ours: entry.theirs for entry in table}
    left_out = tuple(sorted(ignored & set(weights)))
    return ImportedModel(config, to_ours(table, weights, ignored), names, left_out, facts.answers())
