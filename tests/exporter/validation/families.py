"""Random small models of every family, as checkpoints and exported files."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from hsm_models import (
    FeedForwardConfig,
    HSMConfig,
    ImageConfig,
    LayerConfig,
    MixerConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    SoftmaxConfig,
    SwitchHeadConfig,
    TaylorShiftConfig,
)
from hsm_models.checkpoint import build_model, save_checkpoint
from hsm_models.mixers.mixing import MIXINGS

FAMILIES = ("hsm", "hybrid", "causal_taylor_shift", "switch_head", "taylor_shift", "image")


def random_config(family: str, rng: random.Random) -> ModelConfig:
    """Return a small random configuration of a family."""
    width = rng.choice([16, 24, 32, 48])
    layers = tuple(
        LayerConfig(_mixer(family, rng), _feed_forward(family, rng, width), layer_scale=rng.random() < 0.3)
        for _ in range(rng.choice([1, 2, 3]))
    )
    classifier = {"task": "sequence_classifier", "width": width, "layers": layers, "classes": rng.choice([2, 10])}
    if family == "image":
        return ModelConfig(**classifier, input="image", positions="learned", image=ImageConfig(16, 4))
    if family == "taylor_shift":
        return ModelConfig(
            **classifier,
            input=rng.choice(["tokens", "pixels"]),
            vocab_size=rng.choice([17, 256]),
            positions=rng.choice(["learned", "sinusoidal"]),
            max_length=rng.choice([64, 300]),
            pooling=rng.choice(["cls", "mean"]),
            masked=rng.random() < 0.5,
        )
    return ModelConfig(task="language_model", width=width, layers=layers, vocab_size=rng.choice([17, 61, 256]))


def _mixer(family: str, rng: random.Random) -> MixerConfig:
    if family == "hsm" or (family == "hybrid" and rng.random() < 0.5):
        shifts = rng.choice([None, (1, 2), (3,), (1, 2, 4, 8)])
        return HSMConfig(mixing=rng.choice(MIXINGS), padding=rng.choice(["zero", "learned"]), shifts=shifts)
    if family == "hybrid":
        return SoftmaxConfig(heads=2, positions=rng.choice(["rope", "none"]))
    if family == "switch_head":
        experts = rng.choice([1, 3, 4])
        positions = rng.choice(["rope", "xl", "none"])
        return SwitchHeadConfig(2, None, experts, min(experts, 2), positions, same_selection=rng.random() < 0.5)
    normalize = rng.random() < 0.7
    if family == "causal_taylor_shift":
        return TaylorShiftConfig(heads=rng.choice([2, 4]), causal=True, normalize=normalize)
    return TaylorShiftConfig(heads=rng.choice([2, 4]), normalize=normalize, output_norm=rng.random() < 0.5)


def _feed_forward(family: str, rng: random.Random, width: int) -> FeedForwardConfig | None:
    if family == "switch_head" and rng.random() < 0.5:
        return MoEConfig(4, 2, 16)
    return rng.choice([None, MLPConfig(2 * width), MLPConfig(width, activation="relu", bias=False)])


def write_checkpoint(config: ModelConfig, path: Path, seed: int) -> Path:
    """Save a model with random weights."""
    torch.manual_seed(seed)
    save_checkpoint(build_model(config), path)
    return path
