"""Model configurations: frozen dataclasses that round-trip through JSON.

A `ModelConfig` holds everything that is needed to rebuild a model except its weights. Each layer names its own
mixer and feed-forward network, so a hybrid is simply a list of different layers.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from .dataclass_json import LIMIT, build_dataclass
from .errors import ConfigError

_NUMBER_OF_SHIFT_DOUBLINGS = 31  # layers for which the default shift 2**layer_index stays below LIMIT

MIXINGS = ("scalar", "vector", "matrix", "gated", "gated2", "fusion")


@dataclass(frozen=True)
class HSMConfig:
    """Hierarchical Shift Mixing: y_t = f(u_t, u_{t-s}) (our reading of arXiv:2601.22852).

    Attributes:
        shifts: one shift (in tokens, >= 1) per equal group of channels; None means (2**layer_index,).
        mixing: the mixing function f, one of `MIXINGS`; "custom" marks a user-written module, which a
            configuration cannot rebuild.
        padding: what u is before the first token: zeros, or a learned vector (width,).
        hidden: hidden width of the "fusion" mixing's MLP; None means the model's width.
    """

    shifts: tuple[int, ...] | None = None
    mixing: str = "vector"
    padding: Literal["zero", "learned"] = "zero"
    hidden: int | None = None
    kind: Literal["hsm"] = "hsm"


@dataclass(frozen=True)
class TaylorShiftConfig:
    """TaylorShift attention (arXiv:2403.02920).

    Attributes:
        heads: number of heads H.
        head_dim: width d of a head; None means width / heads.
        causal: token t attends to tokens <= t (our extension) instead of to all.
        normalize: normalise q and k and learn a temperature per head; False is the plain polynomial.
        output_norm: multiply the output by sqrt(N / d); not available when causal.
        form: which of the two equal formulas PyTorch evaluates; exported files hold both.
        bias: biases in the qkv and output projections.
    """

    heads: int = 4
    head_dim: int | None = None
    causal: bool = False
    normalize: bool = True
    output_norm: bool = False
    form: Literal["auto", "direct", "efficient"] = "auto"
    bias: bool = True
    kind: Literal["taylor_shift"] = "taylor_shift"


@dataclass(frozen=True)
class SwitchHeadConfig:
    """SwitchHead causal attention with experts in the value and output projections (arXiv:2312.07987).

    Attributes:
        heads: number of heads H.
        head_dim: width f of a head; None means width / heads.
        experts: experts E per head; 1 means dense projections with a sigmoid output gate per head.
        active: experts k used per token and head.
        positions: rotary ("rope"), Transformer-XL relative ("xl") or no positions.
        rope_fraction: fraction of the head's channels that RoPE turns.
        rope_base: base of RoPE's wavelengths.
        same_selection: the source routing also selects the output experts.
        window: tokens that a token sees at most, itself included (Transformer-XL's context window); None means all.
    """

    heads: int = 2
    head_dim: int | None = None
    experts: int = 4
    active: int = 2
    positions: Literal["rope", "xl", "none"] = "rope"
    rope_fraction: float = 0.5
    rope_base: float = 10000.0
    same_selection: bool = False
    window: int | None = None
    kind: Literal["switch_head"] = "switch_head"


@dataclass(frozen=True)
class SoftmaxConfig:
    """Plain causal softmax attention with RoPE, the baseline and the other half of hybrids.

    Attributes:
        heads: number of heads H.
        head_dim: width f of a head; None means width / heads.
        positions: rotary ("rope") or no positions.
        rope_base: base of RoPE's wavelengths.
        bias: biases in the qkv and output projections.
        window: tokens that a token sees at most, itself included (sliding-window attention); None means all.
    """

    heads: int = 4
    head_dim: int | None = None
    positions: Literal["rope", "none"] = "rope"
    rope_base: float = 10000.0
    bias: bool = True
    window: int | None = None
    kind: Literal["softmax"] = "softmax"


@dataclass(frozen=True)
class MLPConfig:
    """Dense feed-forward network W2 act(W1 x).

    Attributes:
        hidden: hidden width.
        activation: exact GELU or ReLU.
        bias: biases in both projections.
    """

    hidden: int
    activation: Literal["gelu", "relu"] = "gelu"
    bias: bool = True
    kind: Literal["mlp"] = "mlp"


@dataclass(frozen=True)
class MoEConfig:
    """SwitchAll's sigma-MoE feed-forward network: sum over the k best experts of s_e ReLU(x K_e) V_e.

    Attributes:
        experts: number of experts E.
        active: experts k used per token.
        expert_width: hidden width of one expert.
    """

    experts: int
    active: int
    expert_width: int = 128
    kind: Literal["moe"] = "moe"


MixerConfig = HSMConfig | TaylorShiftConfig | SwitchHeadConfig | SoftmaxConfig
FeedForwardConfig = MLPConfig | MoEConfig


@dataclass(frozen=True)
class LayerConfig:
    """One pre-norm residual layer: x += mixer(norm1 x); x += feed_forward(norm2 x).

    Attributes:
        mixer: the sequence mixer.
        feed_forward: the feed-forward network, or None for a layer without one.
        layer_scale: multiply both branches by learned vectors (gamma).
    """

    mixer: MixerConfig
    feed_forward: FeedForwardConfig | None = None
    layer_scale: bool = False


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
        norm_eps: epsilon of every LayerNorm.
        embedding_bias: bias after the token embedding (the linear map over one-hots of TaylorShift's code).
        embedding_scale: factor on the token embedding (SwitchHead's training code uses sqrt(width)).
        tie_embeddings: language model whose output weight is its embedding weight.
        output_bias: bias of the output projection.
        classes: number of classes (sequence classifier).
        pooling: classify the CLS token or the mean over valid tokens.
        masked: the model takes a second input `lengths` (B,) int64 and ignores tokens beyond it.
        image: geometry of image input.
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
    pooling: Literal["cls", "mean"] = "cls"
    masked: bool = False
    image: ImageConfig | None = None

    def __post_init__(self) -> None:
        _check(self)

    def to_json(self, indent: int | None = 2) -> str:
        """Return the configuration as JSON text; `from_json` gives back an equal object.

        A window that is not set is left out, so that the text, and with it every fingerprint, is that of the versions
        that knew no windows.
        """
        data = dataclasses.asdict(self)
        for layer in data["layers"]:
            if layer["mixer"].get("window", 0) is None:
                del layer["mixer"]["window"]
        return json.dumps(data, indent=indent)

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


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check(config: ModelConfig) -> None:
    """Refuse values that contradict each other, before a module trips over them."""
    _require(config.width > 0, f"config.width must be positive, got {config.width}")
    _require(0 < config.norm_eps < 1, f"config.norm_eps must lie between 0 and 1, got {config.norm_eps}")
    _require(
        math.isfinite(config.embedding_scale) and config.embedding_scale > 0,
        f"config.embedding_scale must be positive, got {config.embedding_scale}",
    )
    _check_input(config)
    if config.task == "sequence_classifier":
        _check_classifier(config)
    else:
        _require(not config.masked, "config.masked is for classifiers; a language model needs no mask")
    for index, layer in enumerate(config.layers):
        _check_layer(config, layer, index)


def _check_input(config: ModelConfig) -> None:
    if config.input == "image":
        _require(config.task == "sequence_classifier", "config.input 'image' needs the task 'sequence_classifier'")
        _check_image(config.image)
        return
    _require(config.image is None, f"config.image is given, but config.input is {config.input!r}")
    _require(config.vocab_size > 0, f"config.vocab_size must be positive, got {config.vocab_size}")
    if config.positions != "none":
        _require(config.max_length > 0, f"config.positions is {config.positions!r}, which needs config.max_length > 0")


def _check_image(image: ImageConfig | None) -> None:
    if image is None:
        raise ConfigError("config.input is 'image' but config.image is not given")
    _require(
        0 < image.patch <= image.size and image.size % image.patch == 0,
        f"config.image.size {image.size} is not a multiple of config.image.patch {image.patch}",
    )
    _require(image.channels > 0, f"config.image.channels must be positive, got {image.channels}")


def _check_classifier(config: ModelConfig) -> None:
    _require(config.classes > 0, f"config.classes must be positive, got {config.classes}")
    _require(not config.tie_embeddings, "config.tie_embeddings is for language models")
    _require(not (config.masked and config.input == "image"), "config.masked is for sequences, not for images")
    sees_all = any(isinstance(layer.mixer, TaylorShiftConfig) and not layer.mixer.causal for layer in config.layers)
    _require(
        config.pooling == "mean" or sees_all,
        "config.pooling 'cls' needs a layer that is not causal, because the CLS token stands first; use 'mean'",
    )


def _check_layer(config: ModelConfig, layer: LayerConfig, index: int) -> None:
    where = f"config.layers[{index}]"
    mixer = layer.mixer
    if isinstance(mixer, HSMConfig):
        _check_hsm(config, mixer, index)
    else:
        _require(mixer.heads > 0, f"{where}.mixer.heads must be positive, got {mixer.heads}")
        _require(
            mixer.head_dim is not None or config.width % mixer.heads == 0,
            f"{where}.mixer: width {config.width} is not a multiple of heads {mixer.heads}; give head_dim",
        )
        _require(
            mixer.head_dim is None or mixer.head_dim > 0,
            f"{where}.mixer.head_dim must be positive, got {mixer.head_dim}",
        )
    if isinstance(mixer, TaylorShiftConfig):
        _require(
            not (mixer.causal and mixer.output_norm), f"{where}.mixer: output_norm has no meaning when causal is true"
        )
        _require(
            config.task != "language_model" or mixer.causal,
            f"{where}.mixer: a language model needs causal TaylorShift; set causal to true",
        )
    if isinstance(mixer, SwitchHeadConfig):
        _require(
            1 <= mixer.active <= mixer.experts,
            f"{where}.mixer: active {mixer.active} must lie between 1 and experts {mixer.experts}",
        )
        _require(0 <= mixer.rope_fraction <= 1, f"{where}.mixer.rope_fraction must lie in [0, 1]")
    if isinstance(mixer, (SwitchHeadConfig, SoftmaxConfig)):
        _require(mixer.rope_base > 0, f"{where}.mixer.rope_base must be positive, got {mixer.rope_base}")
        _require(
            mixer.window is None or 1 <= mixer.window < LIMIT,
            f"{where}.mixer.window must be at least 1, got {mixer.window}",
        )
    if isinstance(layer.feed_forward, MoEConfig):
        _require(
            1 <= layer.feed_forward.active <= layer.feed_forward.experts,
            f"{where}.feed_forward: active must lie between 1 and experts",
        )
        _require(layer.feed_forward.expert_width > 0, f"{where}.feed_forward.expert_width must be positive")
    if isinstance(layer.feed_forward, MLPConfig):
        _require(layer.feed_forward.hidden > 0, f"{where}.feed_forward.hidden must be positive")


def _check_hsm(config: ModelConfig, mixer: HSMConfig, index: int) -> None:
    where = f"config.layers[{index}]"
    _require(
        mixer.shifts is not None or index < _NUMBER_OF_SHIFT_DOUBLINGS,
        f"{where}.mixer: the default shift 2**{index} is too long; give shifts",
    )
    _require(
        mixer.mixing in (*MIXINGS, "custom"),
        f"{where}.mixer.mixing must be one of {', '.join(MIXINGS)}, got {mixer.mixing!r}",
    )
    if mixer.shifts is not None:
        _require(len(mixer.shifts) > 0, f"{where}.mixer.shifts must not be empty")
        _require(
            all(1 <= shift < LIMIT for shift in mixer.shifts), f"{where}.mixer.shifts must be >= 1, got {mixer.shifts}"
        )
        _require(
            config.width % len(mixer.shifts) == 0,
            f"{where}.mixer: width {config.width} does not split into {len(mixer.shifts)} equal shift groups",
        )
    _require(mixer.hidden is None or mixer.hidden > 0, f"{where}.mixer.hidden must be positive")
