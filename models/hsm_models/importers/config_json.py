"""What `config.json` of a folder of transformers says beside the weights: sizes that must agree, options to list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import ModelConfig
from ..errors import CheckpointError
from .facts import ASSUMED, Facts

# Options of every configuration of transformers that alter no logits of a forward pass.
_NEUTRAL = {
    "_attn_implementation_autoset", "_name_or_path", "architectures", "auto_map", "bos_token_id",
    "chunk_size_feed_forward", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "id2label", "initializer_range", "is_decoder",
    "is_encoder_decoder", "label2id", "length_penalty", "max_length", "max_position_embeddings", "min_length",
    "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "pad_token_id", "prefix", "problem_type", "remove_invalid_values", "repetition_penalty",
    "return_dict", "sep_token_id", "task_specific_params", "temperature", "tie_word_embeddings", "tokenizer_class",
    "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p", "use_bfloat16", "use_cache",
    "vocab_size",
}  # fmt: skip


@dataclass(frozen=True)
class ConfigOptions:
    """The options of one layout's configurations.

    Attributes:
        known: those that the importer reads, refuses or knows to alter nothing.
        width, layers: the names of these sizes.
        blocks: layers of ours in each of theirs.
        vocabulary_multiple: the table may be padded to a multiple of an option of this name; "" for none.
    """

    known: frozenset[str]
    width: str
    layers: str
    blocks: int = 1
    vocabulary_multiple: str = ""


def check(
    arguments: Mapping[str, Any], options: ConfigOptions, config: ModelConfig, has_output: bool, facts: Facts
) -> None:
    """Refuse a configuration that is another model's, and list the options that the importer has never heard of.

    Args:
        arguments: the JSON document; empty without one.
        options: those of its layout.
        config: the model that was read off the weights.
        has_output: the file holds a projection to logits of its own.
        facts: where unknown options are noted.

    Raises:
        CheckpointError: sizes or ties that contradict the weights, or quantised weights.
    """
    if arguments.get("quantization_config"):
        raise CheckpointError("config.json has a quantization_config: import the weights from before quantisation")
    _check_sizes(arguments, options, config)
    tied = arguments.get("tie_word_embeddings")
    if tied is True and has_output and not config.tie_embeddings:
        raise CheckpointError(
            "config.json ties the output to the embedding (tie_word_embeddings), but the file has another output; one "
            "of them is another model's"
        )
    if tied is False and not has_output:
        raise CheckpointError("the file has no output projection, and config.json does not tie it to the embedding")
    for name in sorted(set(arguments) - _NEUTRAL - options.known - {options.width, options.layers}):
        if arguments[name] not in (None, False, 0, "", [], {}):
            facts.note(name, arguments[name], ASSUMED, "unknown to the importer: taken to alter nothing")


def _check_sizes(arguments: Mapping[str, Any], options: ConfigOptions, config: ModelConfig) -> None:
    found = {
        options.width: config.width,
        options.layers: len(config.layers) // options.blocks,
        "vocab_size": config.vocab_size,
    }
    padding = arguments.get(options.vocabulary_multiple)
    for name, size in found.items():
        given = arguments.get(name)
        if given is None or given == size:
            continue
        if name == "vocab_size" and isinstance(padding, int) and isinstance(given, int) and 0 < size - given < padding:
            continue
        raise CheckpointError(f"config.json has {name} = {given!r}, but the weights are those of {name} = {size}")
