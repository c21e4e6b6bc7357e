"""Small models in which a planted fault has one place."""

from __future__ import annotations

from pathlib import Path

import torch

from hsm_models import (
    HSMConfig,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    SwitchHeadConfig,
    TaylorShiftConfig,
)
from hsm_models.checkpoint import build_model, load_checkpoint, save_checkpoint

_WIDTH, _VOCABULARY = 32, 61
# Values around 2048, as in models with outlying channels: 33 of them sum up beyond float16.
_LARGE = 1024.0

# One ShiftMix, one TokenShift with shifts beyond 4, one square weight: each in a layer of its own.
SHIFTS = ModelConfig(
    task="language_model",
    width=_WIDTH,
    vocab_size=_VOCABULARY,
    layers=(
        LayerConfig(HSMConfig(shifts=(1, 2), mixing="vector"), MLPConfig(48)),
        LayerConfig(HSMConfig(shifts=(4, 8), mixing="gated2"), MLPConfig(_WIDTH)),
        LayerConfig(HSMConfig(shifts=(2, 3), mixing="matrix"), MLPConfig(48)),
    ),
)
EXPERTS = ModelConfig(
    task="language_model",
    width=_WIDTH,
    vocab_size=_VOCABULARY,
    layers=tuple(LayerConfig(SwitchHeadConfig(heads=2, experts=4, active=2)) for _ in range(2)),
)
ATTENTION = ModelConfig(
    task="sequence_classifier",
    width=_WIDTH,
    vocab_size=_VOCABULARY,
    classes=10,
    positions="learned",
    max_length=300,
    layers=tuple(LayerConfig(TaylorShiftConfig(heads=2)) for _ in range(3)),
)
CONFIGS = {"shifts": SHIFTS, "decoding": SHIFTS, "experts": EXPERTS, "attention": ATTENTION}


def write_checkpoint(name: str, folder: Path) -> Path:
    """Save a model with random weights that are always the same; return the path."""
    torch.manual_seed(1)
    model = build_model(CONFIGS[name])
    if name == "attention":
        _enlarge_values(model)
    path = folder / f"{name}.safetensors"
    save_checkpoint(model, path)
    return path


def train_further(checkpoint: Path, path: Path) -> Path:
    """Save the model after a step of training of its second layer alone; return the path."""
    model = load_checkpoint(checkpoint)
    tokens = torch.randint(0, _VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(2))
    logits = model(tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    torch.optim.Adam(model.layers[1].feed_forward.parameters(), lr=1e-3).step()
    save_checkpoint(model, path)
    return path


def _enlarge_values(model: torch.nn.Module) -> None:
    """Make the second layer's values larger and its projection smaller: the result is no larger, the sums are."""
    mixer = model.layers[1].mixer
    with torch.no_grad():
        mixer.qkv.weight.unflatten(0, (3, -1))[2].mul_(_LARGE)
        mixer.qkv.bias.unflatten(0, (3, -1))[2].fill_(2 * _LARGE)
        mixer.proj.weight.div_(_LARGE)
