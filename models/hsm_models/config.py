"""Model configurations: frozen dataclasses that round-trip through JSON.

A `ModelConfig` holds everything that is needed to rebuild a model except its weights. Each layer has its own mixer and
feed-forward network, so a hybrid is simply a list of different layers; their configurations stand with their modules.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from .dataclass_json import added, build_dataclass, fields_of
from .errors import ConfigError, require
from .parts import FeedForwardConfig, MixerConfig, PartConfig, Place


@dataclass(frozen=True)
class LayerConfig:
    """One pre-norm residual layer: x += mixer(norm1 x); x += feed_forward(norm2 x).

    Attributes:
        mixer: the sequence mixer.
        feed_forward: the feed-forward network, or None for a layer without one.
        layer_scale: multiply both branches by learned vectors (gamma).
        norm: "pre", as above, or "peri" (MoEUT, arXiv:2405.16039): only what a softmax or a sigmoid follows is
            normalised, queries, keys and the choice of experts; values and hidden units are made from x itself. It is
            for the mixer "switch_head" and the feed-forward network "moe".
    """

    mixer: MixerConfig
    feed_forward: FeedForwardConfig | None = None
    layer_scale: bool = False
    norm: Literal["pre", "peri"] = added("pre")


@dataclass(frozen=True)
class ImageConfig:
    """Image input of a vision transformer: (B, channels, size, size) cut into square patches.

    Attributes:
        size: height and width in pixels.
        patch: height and width of a patch in pixels; divides size.
        channels: colour channels.
    """

    size: int
    patch: int
    channels: int = 3


@dataclass(frozen=True)
class ModelConfig:
    """A whole model.

    Attributes:
        task: "language_model" (causal, one logit vector per token) or "sequence_classifier" (one per sequence).
        width: model width D.
        layers: the layers, first to last.
        vocab_size: number of token ids or grey levels; 0 for image input.
        input: what the model reads: "tokens" (B,T) int64, "pixels" (B,T) int64 grey levels, or "image" (B,C,H,W) float.
        positions: absolute positions added to the embedding. Sinusoidal ones are added before the CLS token is put
            in front; learned ones have a row for the CLS token too and are added after it (as in timm's ViT).
        max_length: longest sequence that the absolute positions allow, in tokens without the CLS token; 0 = no limit.
            Image input needs none: the image's geometry gives it.
        norm_eps: epsilon of every norm of layers.
        embedding_bias: bias after the token embedding (the linear map over one-hots of TaylorShift's code).
        embedding_scale: factor on the token embedding (SwitchHead's training code uses sqrt(width)).
        tie_embeddings: language model whose output weight is its embedding weight.
        output_bias: bias of the output projection.
        classes: number of classes (sequence classifier).
        pooling: classify the CLS token ("cls"), the mean over valid tokens ("mean"), or that mean in a model with a CLS
            token ("tokens").
        masked: the model takes a second input `lengths` (B,) int64 and ignores tokens beyond it.
        image: geometry of image input.
        repeats: how often the layers are run, one group after the other with the same weights (a universal
            transformer); each run of a layer has a state of its own.
        embedding_norm: language model with a norm behind its token embedding.
        norm_kind: what normalises: "layer", LayerNorms, or "rms", RMSNorms, which only divide.
    """

    task: Literal["language_model", "sequence_classifier"]
    width: int
    layers: tuple[LayerConfig, ...] = field(default_factory=tuple)
    vocab_size: int = 0
    input: Literal["tokens", "pixels", "image"] = "tokens"
    positions: Literal["none", "learned", "sinusoidal"] = "none"
    max_length: int = 0
    norm_eps: float = 1e-5
    embedding_bias: bool = False
    embedding_scale: float = 1.0
    tie_embeddings: bool = False
    output_bias: bool = True
    classes: int = 0
    pooling: Literal["cls", "mean", "tokens"] = "cls"
    masked: bool = False
    image: ImageConfig | None = None
    repeats: int = added(1)
    embedding_norm: bool = added(False)
    norm_kind: Literal["layer", "rms"] = added("layer")

    def __post_init__(self) -> None:
        _check(self)

    def to_json(self, indent: int | None = 2) -> str:
        """Return the configuration as JSON text; `from_json` gives back an equal object."""
        return json.dumps(self.to_dict(), indent=indent)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON data; `from_dict` gives back an equal object."""
        return fields_of(self)

    def parts(self) -> dict[str, PartConfig]:
        """Return each mixer and feed-forward network by its module's name, such as "layers.0.mixer".

        Defaults that depend on the model are filled in.
        """
        return {
            f"layers.{index}.{role}": part.resolved(Place(self.width, index))
            for index, layer in enumerate(self.layers)
            for role, part in (("mixer", layer.mixer), ("feed_forward", layer.feed_forward))
            if part is not None
        }

    @staticmethod
    def from_json(text: str) -> ModelConfig:
        """Parse JSON text.

        Raises:
            ConfigError: not JSON, unknown or missing fields, wrong types, or values that contradict each other.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the model configuration is not valid JSON: {error}") from error
        return ModelConfig.from_dict(data)

    @staticmethod
    def from_dict(data: Any) -> ModelConfig:
        """Build a configuration from JSON data; raises ConfigError as `from_json` does."""
        return build_dataclass(ModelConfig, data, "config")


def _check(config: ModelConfig) -> None:
    """Refuse values that contradict each other, before a module trips over them."""
    require(config.width > 0, f"config.width must be positive, got {config.width}")
    require(0 < config.norm_eps < 1, f"config.norm_eps must lie between 0 and 1, got {config.norm_eps}")
    require(
        math.isfinite(config.embedding_scale) and config.embedding_scale > 0,
        f"config.embedding_scale must be positive, got {config.embedding_scale}",
    )
    require(config.repeats >= 1, f"config.repeats must be at least 1, got {config.repeats}")
    _check_input(config)
    if config.task == "sequence_classifier":
        _check_classifier(config)
    else:
        require(not config.masked, "config.masked is for classifiers; a language model needs no mask")
    _check_shared(config)
    for index, layer in enumerate(config.layers):
        _check_layer(config, layer, index)


def _check_input(config: ModelConfig) -> None:
    if config.input == "image":
        require(config.task == "sequence_classifier", "config.input 'image' needs the task 'sequence_classifier'")
        _check_image(config.image)
        return
    require(config.image is None, f"config.image is given, but config.input is {config.input!r}")
    require(config.vocab_size > 0, f"config.vocab_size must be positive, got {config.vocab_size}")
    if config.positions != "none":
        require(config.max_length > 0, f"config.positions is {config.positions!r}, which needs config.max_length > 0")


def _check_image(image: ImageConfig | None) -> None:
    if image is None:
        raise ConfigError("config.input is 'image' but config.image is not given")
    require(
        0 < image.patch <= image.size and image.size % image.patch == 0,
        f"config.image.size {image.size} is not a multiple of config.image.patch {image.patch}",
    )
    require(image.channels > 0, f"config.image.channels must be positive, got {image.channels}")


def _check_classifier(config: ModelConfig) -> None:
    require(config.classes > 0, f"config.classes must be positive, got {config.classes}")
    require(not config.tie_embeddings, "config.tie_embeddings is for language models")
    require(not config.embedding_norm, "config.embedding_norm is for language models")
    require(not (config.masked and config.input == "image"), "config.masked is for sequences, not for images")
    require(
        config.pooling != "cls" or not all(layer.mixer.is_causal for layer in config.layers),
        "config.pooling 'cls' needs a layer that is not causal, because the CLS token stands first; use 'mean'",
    )


def _check_shared(config: ModelConfig) -> None:
    """Refuse a layer that needs what no earlier layer leaves."""
    left: set[str] = set()
    for index, layer in enumerate(config.layers):
        takes = layer.mixer.takes
        require(
            takes is None or takes in left,
            f"config.layers[{index}].mixer takes {takes}, which no earlier layer leaves",
        )
        left |= {layer.mixer.leaves} - {None}  # type: ignore[arg-type]


def _check_layer(config: ModelConfig, layer: LayerConfig, index: int) -> None:
    for role, part in (("mixer", layer.mixer), ("feed_forward", layer.feed_forward)):
        if part is not None:
            where = f"config.layers[{index}].{role}"
            part.registered(where)
            part.check(Place(config.width, index, where))
    require(
        config.task != "language_model" or layer.mixer.is_causal,
        f"config.layers[{index}].mixer: a language model needs causal mixers; set causal to true",
    )
    network = None if layer.feed_forward is None else layer.feed_forward.kind
    require(
        layer.norm == "pre" or (layer.mixer.kind == "switch_head" and network in (None, "moe")),
        f"config.layers[{index}].norm 'peri' is for the mixer switch_head and the feed-forward network moe",
    )
