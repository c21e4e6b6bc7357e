"""The layout of TaylorShift's authors (tobna/TaylorShift): their transformers and vision transformers."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from ..config import ImageConfig, LayerConfig, ModelConfig
from ..errors import CheckpointError
from ..feed_forward import MLPConfig
from ..mixers import TaylorShiftConfig
from .facts import Facts
from .mapping import Entry, at_least_single, count_layers, reshaped, shape_of, transposed, weight_and_bias
from .options import OptionError, QueryScale

Weights = Mapping[str, torch.Tensor]
NORM_EPS = 1e-6
_OWN_MODEL = "build that model in your own code from hsm_models.TaylorShift, load the weights there, and export it"

_FEATURES = (
    (r"patch_embed\.proj\.\d", "convolutional embeddings (patch_embed.proj is a stack of convolutions)"),
    (r"norm_pre\.", "a LayerNorm in front of the layers (pre_norm)"),
    (r"fc_norm\.", "average pooling with a LayerNorm behind it (fc_norm)"),
    (r"blocks\.\d+\.attn\.[qk]_norm\.", "LayerNorms of queries and keys (qk_norm)"),
    (r"blocks\.\d+\.attn\.(relative_position|rel_pos)", "relative positions"),
    (r"reg_token", "register tokens"),
    (r"dist_token", "a distillation token"),
)


def refuse_features(weights: Weights) -> None:
    """Refuse, by name, what other models of timm and of the training code have.

    Raises:
        CheckpointError: a weight belongs to such a feature.
    """
    for pattern, feature in _FEATURES:
        found = next((name for name in weights if re.match(pattern, name)), None)
        if found is not None:
            raise CheckpointError(
                f"the file has {feature}: {found}; supported are linear embeddings of tokens or pixels and of square "
                "patches, pre-norm layers with the final norm before pooling, and the CLS token or the mean as pooling"
            )


def normalise(weights: Weights) -> dict[str, torch.Tensor]:
    """Reduce the variants of the layout to one form.

    The variants: a classifier inside a Sequential (`head.0.*`), and qkv projections without bias (zeros do the same).

    Args:
        weights: the authors' state dict, without prefixes.
    """
    renamed = {re.sub(r"^head\.0\.", "head.", name): tensor for name, tensor in weights.items()}
    if not any(name.endswith(".attn.qkv.bias") for name in renamed):
        projections = [name for name in renamed if name.endswith(".attn.qkv.weight")]
        renamed |= {
            f"{name.removesuffix('weight')}bias": renamed[name].new_zeros(renamed[name].shape[:1])
            for name in projections
        }
    return renamed


def read_config(weights: dict[str, torch.Tensor], facts: Facts) -> ModelConfig:
    """Read the configuration off normalised weights; positions without a row for the CLS token get one of zeros.

    Raises:
        CheckpointError: a weight that the shapes are read from is missing, or shapes contradict each other.
        OptionError: an option is missing or contradicts the file.
    """
    width = shape_of(weights, "norm.weight", 1)[0]
    is_image = "patch_embed.proj.weight" in weights
    hidden = shape_of(weights, "blocks.0.mlp.fc1.weight", 2)[0]
    layer = LayerConfig(
        mixer=_read_attention(weights, facts),
        feed_forward=MLPConfig(hidden=hidden, activation=facts.answer("activation", "gelu")),
        layer_scale="blocks.0.ls1.gamma" in weights,
    )
    image = _read_image(weights, facts) if is_image else None
    read: Any = "image" if is_image else facts.answer("input", "tokens")
    if not is_image:
        _add_cls_row(weights, "pe", facts.answer("cls_position", False))
    return ModelConfig(
        task="sequence_classifier",
        width=width,
        layers=(layer,) * count_layers(weights, r"blocks\.(\d+)\."),
        vocab_size=0 if is_image else shape_of(weights, "patch_embed.weight", 2)[1],
        input=read,
        positions="learned",
        max_length=0 if is_image else shape_of(weights, "pe", 3)[1] - 1,
        norm_eps=facts.answer("norm_eps", NORM_EPS),
        embedding_bias=not is_image,
        classes=shape_of(weights, "head.weight", 2)[0],
        pooling="tokens" if facts.answer("pooling", "token") == "avg" else "cls",
        image=image,
    )


def _add_cls_row(weights: dict[str, torch.Tensor], name: str, has_row: bool) -> None:
    """Put a row of zeros for the CLS token in front of positions (1,N,D), unless they have one."""
    shape_of(weights, name, 3)
    if not has_row:
        weights[name] = torch.cat((torch.zeros_like(weights[name][:, :1]), weights[name]), dim=1)


def entries(config: ModelConfig, query_scale: QueryScale | None = None) -> list[Entry]:
    """Return the table between our names and the authors' for a model of this configuration.

    Args:
        config: the model's configuration.
        query_scale: the authors' factor on the queries of un-normalised attention, which we keep in their projection.
    """
    width = config.width
    table = _embedding_entries(config)
    for index, layer in enumerate(config.layers):
        table += _layer_entries(index, layer, width, query_scale)
    return [
        *table,
        *weight_and_bias("norm", "norm", (width,)),
        *weight_and_bias("output", "head", (config.classes, width)),
    ]


def without_position_row(weights: Weights) -> dict[str, torch.Tensor]:
    """Add the CLS token's position to the token itself, in our names: a transformer's `pe` has no row for it."""
    positions, cls_token = weights["position_embedding"], weights["cls_token"]
    moved = torch.cat((torch.zeros_like(positions[:1]), positions[1:]))
    return {**weights, "cls_token": cls_token + positions[0], "position_embedding": moved}


def _read_attention(weights: Weights, facts: Facts) -> TaylorShiftConfig:
    if "blocks.0.attn.temperature" in weights:
        heads = shape_of(weights, "blocks.0.attn.temperature", 4)[1]
        facts.read("heads", heads, f"the file's temperatures are those of {heads} heads")
        return TaylorShiftConfig(heads=heads, normalize=True, output_norm=facts.answer("output_norm", True))
    heads = facts.demand(
        "heads", "the file has no temperatures, so the number of heads cannot be read off it: give heads"
    )
    scale = facts.demand(
        "query_scale",
        "the attention is not normalised, so the authors' factor on the queries matters: give query_scale, "
        "`package` for width**-0.5 or `training` for d**0.25",
    )
    # The training code's class without normalisation has no output norm, whatever it is told.
    return TaylorShiftConfig(heads=heads, normalize=False, output_norm=facts.answer("output_norm", scale == "package"))


def _read_image(weights: dict[str, torch.Tensor], facts: Facts) -> ImageConfig:
    """Read the geometry of a square picture, whose positions may have a row for the CLS token."""
    _, channels, height, patch = shape_of(weights, "patch_embed.proj.weight", 4)
    rows = shape_of(weights, "pos_embed", 3)[1]
    if height != patch:
        raise CheckpointError(f"the patches are {height}x{patch} pixels: only square ones are supported; {_OWN_MODEL}")
    wanted, has_row = facts.given("image_size"), facts.given("cls_position")
    sides = {
        row: math.isqrt(rows - row)
        for row in (False, True)
        if rows > row and math.isqrt(rows - row) ** 2 == rows - row and has_row in (None, row)
    }
    if wanted is not None:
        sides = {row: side for row, side in sides.items() if side * patch == wanted}
    if not sides:
        told = f" and image_size {wanted}" if wanted is not None else ""
        raise CheckpointError(
            f"pos_embed has {rows} rows, which with patches of {patch}x{patch}{told} are those of no square image; "
            f"pictures of another form are not supported; {_OWN_MODEL}"
        )
    row, side = next(iter(sides.items()))
    facts.answer("image_size", side * patch, f"pos_embed has {rows} rows: {side} x {side} patches")
    facts.answer("cls_position", row)
    _add_cls_row(weights, "pos_embed", row)
    return ImageConfig(size=side * patch, patch=patch, channels=channels)


def _query_factor(mixer: TaylorShiftConfig, width: int, query_scale: QueryScale | None) -> float:
    if mixer.normalize:
        return 1.0
    if query_scale is None:
        raise OptionError(
            "the attention is not normalised, so the authors' factor on the queries matters: give query_scale, "
            "`package` for width**-0.5 or `training` for d**0.25"
        )
    return width**-0.5 if query_scale == "package" else mixer.head_width(width) ** 0.25


def _embedding_entries(config: ModelConfig) -> list[Entry]:
    width, image = config.width, config.image
    cls_token = Entry("cls_token", "cls_token", (1, 1, width))
    if image is not None:
        rows = (image.size // image.patch) ** 2 + 1
        return [
            *weight_and_bias("embedding.proj", "patch_embed.proj", (width, image.channels, image.patch, image.patch)),
            cls_token,
            reshaped("position_embedding", "pos_embed", (1, rows, width), (rows, width)),
        ]
    return [
        transposed("embedding.weight", "patch_embed.weight", (width, config.vocab_size)),
        Entry("embedding.bias", "patch_embed.bias", (width,)),
        cls_token,
        Entry("position_embedding", "pe", (1, 1 + config.max_length, width), _squeezed, _without_first),
    ]


def _squeezed(positions: torch.Tensor) -> torch.Tensor:
    """Turn (1,1+N,D), whose first row `_add_cls_row` may have made, into (1+N,D)."""
    return positions[0]


def _without_first(positions: torch.Tensor) -> torch.Tensor:
    """Turn (1+N,D) into (1,N,D): on the way back the CLS token carries its position itself."""
    return positions[1:].unsqueeze(0)


def _layer_entries(index: int, layer: LayerConfig, width: int, query_scale: QueryScale | None) -> list[Entry]:
    ours, theirs = f"layers.{index}", f"blocks.{index}"
    mixer, feed_forward = layer.mixer, layer.feed_forward
    assert isinstance(mixer, TaylorShiftConfig) and isinstance(feed_forward, MLPConfig)
    table = weight_and_bias(f"{ours}.norm1", f"{theirs}.norm1", (width,))
    factor = _query_factor(mixer, width, query_scale)
    qkv = weight_and_bias(f"{ours}.mixer.qkv", f"{theirs}.attn.qkv", (3 * width, width))
    table += qkv if factor == 1.0 else [_with_scaled_queries(entry, factor) for entry in qkv]
    table += weight_and_bias(f"{ours}.mixer.proj", f"{theirs}.attn.proj", (width, width))
    table += weight_and_bias(f"{ours}.norm2", f"{theirs}.norm2", (width,))
    table += weight_and_bias(f"{ours}.feed_forward.up", f"{theirs}.mlp.fc1", (feed_forward.hidden, width))
    table += weight_and_bias(f"{ours}.feed_forward.down", f"{theirs}.mlp.fc2", (width, feed_forward.hidden))
    if mixer.normalize:
        name = "attn.temperature"
        table.append(Entry(f"{ours}.mixer.temperature", f"{theirs}.{name}", (1, mixer.heads, 1, 1)))
    if layer.layer_scale:
        table += [Entry(f"{ours}.scale{branch}", f"{theirs}.ls{branch}.gamma", (width,)) for branch in (1, 2)]
    return table


def _with_scaled_queries(entry: Entry, factor: float) -> Entry:
    return dataclasses.replace(
        entry,
        to_ours=lambda tensor: _scale_queries(tensor, factor),
        to_theirs=lambda tensor: _scale_queries(tensor, 1 / factor),
    )


def _scale_queries(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply the first third of the rows, which make the queries."""
    rows = tensor.shape[0] // 3
    return torch.cat((at_least_single(tensor[:rows]) * factor, at_least_single(tensor[rows:])))
