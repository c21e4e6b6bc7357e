"""What a state dict does not say about its model: options, and the authors' published configurations as presets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import ModelConfig
from ..dataclass_json import fields_of
from ..errors import ConfigError

Layout = Literal["taylor-shift", "switch-head", "moeut", "sigma-moe", "rwkv7", "based"]
QueryScale = Literal["package", "training"]
LAYOUTS: tuple[Layout, ...] = ("taylor-shift", "switch-head", "moeut", "sigma-moe", "rwkv7", "based")


class OptionError(ConfigError):
    """An option is missing, unknown, or contradicts the file, a preset or another option."""


@dataclass(frozen=True)
class ImportOptions:
    """Facts about a model that its weights' shapes do not show; None leaves a fact to the file or to an assumption.

    Every assumption is listed in the import's result; see `facts.Facts`.

    Attributes:
        heads: number of heads; needed only where neither the temperature nor the experts show it.
        active: SwitchHead: experts k used per token and head; always needed when there is more than one.
        feed_forward_active: SwitchAll: experts k of the feed-forward network; always needed there.
        positions: SwitchHead without `pos_to_pk`: "rope" (assumed) or "none".
        rope_fraction: fraction of the head's channels that RoPE turns; 0.5 is assumed.
        rope_base: base of RoPE's wavelengths; 10000 is assumed.
        activation: of the feed-forward network: SwitchHead's is assumed to be "relu", TaylorShift's "gelu" (exact).
        output_norm: TaylorShift: the output is multiplied by sqrt(N / d). Assumed to be true with temperatures, as in
            all of the authors' registered models, and false without them in the training code, which ignores it there.
        query_scale: TaylorShift without temperature: which of the authors' codes trained it. Their package multiplies
            the queries by width**-0.5, their training code by d**0.25; normalised models do not feel it.
        input: whether ids are "tokens" (assumed) or "pixels".
        norm_eps: epsilon of every LayerNorm; TaylorShift's is assumed to be 1e-6, SwitchHead's 1e-5.
        pooling: TaylorShift: what is classified, the CLS token ("token", assumed) or the mean over the others ("avg").
        cls_position: TaylorShift: the first row of the positions belongs to the CLS token (`no_embed_class=False`);
            assumed to be false for transformers, and read off the number of rows for images.
        image_size: TaylorShift's ViT: height and width of the square picture, in pixels; read off the positions where
            only one number fits them.
        window: SwitchHead and Based: tokens that a token sees at most, itself included; 0 is all before it.
            SwitchHead's files tell it by the length of a block and the number of earlier blocks.
        layers: MoEUT: layers that are run in all, a multiple of those in the file, which share their weights.
        weights_key: which of a training file's entries holds the weights, such as "ema"; else the model's own.
    """

    heads: int | None = None
    active: int | None = None
    feed_forward_active: int | None = None
    positions: Literal["rope", "none"] | None = None
    rope_fraction: float | None = None
    rope_base: float | None = None
    activation: Literal["relu", "gelu", "silu", "gelu_tanh", "sigmoid"] | None = None
    output_norm: bool | None = None
    query_scale: QueryScale | None = None
    input: Literal["tokens", "pixels"] | None = None
    norm_eps: float | None = None
    pooling: Literal["token", "avg"] | None = None
    cls_position: bool | None = None
    image_size: int | None = None
    window: int | None = None
    layers: int | None = None
    weights_key: str | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                _check_value(name, value)


_COUNTS = ("heads", "active", "feed_forward_active", "image_size", "layers", "window")
_NUMBERS = ("rope_fraction", "rope_base", "norm_eps")
_SWITCHES = ("output_norm", "cls_position")


def _check_value(name: str, value: Any) -> None:
    """Refuse what a file or a caller gives that is of no use: files may hold anything."""
    if name in _COUNTS:
        fits, wanted = type(value) is int and value >= (name == "heads"), "a whole number"
    elif name in _NUMBERS:
        fits, wanted = type(value) in (int, float) and math.isfinite(value), "a number"
    elif name in _SWITCHES:
        fits, wanted = type(value) is bool, "true or false"
    else:
        fits, wanted = isinstance(value, str), "a word"
    if not fits:
        raise OptionError(f"{name} must be {wanted}, got {value!r}")


@dataclass(frozen=True)
class Preset:
    """A configuration that the authors published.

    Attributes:
        layout: the layout of its files.
        description: one line on what it is.
        options: what its files' shapes do not show.
        sizes: sizes that its files must have, by name as in `sizes_of`.
    """

    layout: Layout
    description: str
    options: ImportOptions
    sizes: Mapping[str, int] = field(default_factory=dict)


def _taylor(description: str, width: int, layers: int, heads: int, ratio: int, **options: Any) -> Preset:
    return Preset(
        "taylor-shift",
        description,
        ImportOptions(heads=heads, output_norm=True, **options),
        {"width": width, "layers": layers, "heads": heads, "hidden": ratio * width},
    )


def _switch(
    description: str, width: int, layers: int, heads: int, experts: int, active: int, head_dim: int, hidden: int = 0
) -> Preset:
    """`hidden` 0 stands for SwitchAll, whose feed-forward network always uses 4 experts of 128 units."""
    sizes = {"width": width, "layers": layers, "heads": heads, "experts": experts, "head_dim": head_dim}
    dense = {"hidden": hidden} if hidden else {"expert_width": 128}
    options = ImportOptions(heads=heads, active=active, feed_forward_active=None if hidden else 4)
    return Preset("switch-head", description, options, sizes | dense)


PRESETS: dict[str, Preset] = {
    "listops": _taylor("TaylorShift on ListOps", 512, 4, 8, 2),
    "imdb": _taylor("TaylorShift on IMDB bytes", 256, 4, 4, 4),
    "cifar": _taylor("TaylorShift on CIFAR-10 grey pixels", 256, 1, 4, 1, input="pixels"),
    "pathfinder": _taylor("TaylorShift on Pathfinder pixels", 64, 4, 4, 1, input="pixels"),
    "vit-ti": _taylor("TaylorShift ViT-Ti", 192, 12, 3, 4),
    "vit-s": _taylor("TaylorShift ViT-S", 384, 12, 6, 4),
    "vit-b": _taylor("TaylorShift ViT-B", 768, 12, 12, 4),
    "wikitext103-47m": _switch("SwitchHead 47M on WikiText-103", 412, 16, 2, 5, 2, 76, 2080),
    "wikitext103-262m": _switch("SwitchHead 262M on WikiText-103", 1024, 18, 2, 8, 4, 132, 4147),
    "wikitext103-rope-45m": _switch("SwitchHead 45M with RoPE on WikiText-103", 412, 16, 2, 5, 3, 64, 2092),
    "c4-47m": _switch("SwitchHead 47M on C4", 412, 16, 2, 5, 3, 76, 2080),
    "c4-262m": _switch("SwitchHead 262M on C4", 1024, 18, 4, 4, 2, 112, 4188),
    "enwik8": _switch("SwitchHead on Enwik8", 512, 12, 2, 4, 2, 112, 2088),
    "switch-all-47m": _switch("SwitchAll 47M on WikiText-103", 412, 16, 2, 5, 2, 76),
}


def sizes_of(config: ModelConfig) -> dict[str, Any]:
    """Return the sizes of a model whose layers are all alike, as presets name them: the fields of its parts.

    Where both have a field of that name, it is the mixer's.
    """
    parts = config.parts()
    sizes: dict[str, Any] = {}
    for role in ("feed_forward", "mixer"):
        if part := parts.get(f"layers.0.{role}"):
            sizes |= fields_of(part)
    return sizes | {"width": config.width, "layers": len(config.layers)}


def check_preset(name: str, config: ModelConfig) -> None:
    """Refuse a file whose sizes are not the preset's.

    Raises:
        OptionError: some sizes differ; all are listed.
    """
    sizes = sizes_of(config)
    wrong = [
        f"{size} {sizes.get(size, 'absent')} instead of {value}"
        for size, value in PRESETS[name].sizes.items()
        if sizes.get(size) != value
    ]
    if wrong:
        raise OptionError(f"the file is not the preset {name}: it has {', '.join(wrong)}")
