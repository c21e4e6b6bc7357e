"""Small models with random weights, one for each thing that an exporter can trip over."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from hsm_models import (
    FeedForwardConfig,
    GatedConvolutionConfig,
    HSMConfig,
    ImageConfig,
    LayerConfig,
    MixerConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    RWKV7ChannelConfig,
    RWKV7Config,
    SoftmaxConfig,
    SwitchHeadConfig,
    TaylorShiftConfig,
)
from hsm_models.language_model import LanguageModel
from hsm_models.sequence_classifier import SequenceClassifier

ModuleT = TypeVar("ModuleT", bound=nn.Module)

WIDTH = 32
VOCAB = 41

MIXERS: dict[str, tuple[MixerConfig, ...]] = {
    "hsm-scalar": (HSMConfig(mixing="scalar"), HSMConfig(mixing="scalar", shifts=(1, 3))),
    "hsm-vector": (HSMConfig(), HSMConfig(padding="learned")),
    "hsm-matrix": (HSMConfig(mixing="matrix"),),
    "hsm-gated": (HSMConfig(mixing="gated"),),
    "hsm-gated2": (HSMConfig(mixing="gated2", shifts=(2, 5)),),
    "hsm-fusion": (HSMConfig(mixing="fusion", padding="learned"),),
    "taylor-shift": (TaylorShiftConfig(causal=True, heads=4),),
    "taylor-shift-plain": (TaylorShiftConfig(causal=True, heads=4, normalize=False, value_dim=5),),
    "switch-head": (SwitchHeadConfig(),),
    "switch-head-xl": (SwitchHeadConfig(positions="xl"),),
    "switch-head-one-expert": (SwitchHeadConfig(experts=1, active=1),),
    "switch-head-same-selection": (SwitchHeadConfig(same_selection=True, positions="none"),),
    "softmax": (SoftmaxConfig(),),
    "gated-convolution": (GatedConvolutionConfig(), GatedConvolutionConfig(5, 24, convolution_bias=True)),
    "rwkv7": (RWKV7Config(), RWKV7ChannelConfig(48), RWKV7Config(value_rank=8, decay_rank=6, rate_rank=4, gate_rank=5)),
    "hybrid": (HSMConfig(), SoftmaxConfig(), TaylorShiftConfig(causal=True), SwitchHeadConfig()),
}

CLASSIFIERS: dict[str, ModelConfig] = {
    "tokens": ModelConfig(
        task="sequence_classifier",
        width=WIDTH,
        vocab_size=VOCAB,
        classes=5,
        positions="sinusoidal",
        max_length=64,
        layers=(LayerConfig(TaylorShiftConfig(output_norm=True), MLPConfig(48)),),
    ),
    "masked": ModelConfig(
        task="sequence_classifier",
        width=WIDTH,
        vocab_size=VOCAB,
        classes=5,
        positions="learned",
        max_length=64,
        masked=True,
        layers=(LayerConfig(TaylorShiftConfig(output_norm=True), MLPConfig(48), layer_scale=True),),
    ),
    "masked-mean": ModelConfig(
        task="sequence_classifier",
        width=WIDTH,
        vocab_size=256,
        input="pixels",
        classes=5,
        pooling="mean",
        masked=True,
        layers=(LayerConfig(TaylorShiftConfig(normalize=False), MLPConfig(48)),),
    ),
    "around": ModelConfig(
        task="sequence_classifier",
        width=WIDTH,
        vocab_size=VOCAB,
        classes=5,
        masked=True,
        layers=(
            LayerConfig(HSMConfig(shifts=(-1, 2), padding="learned", causal=False), MLPConfig(48)),
            LayerConfig(HSMConfig(shifts=(0, -3), mixing="gated2", causal=False)),
            LayerConfig(SwitchHeadConfig(positions="xl", causal=False)),
        ),
    ),
    "vit": ModelConfig(
        task="sequence_classifier",
        width=WIDTH,
        input="image",
        classes=5,
        positions="learned",
        image=ImageConfig(size=8, patch=2),
        layers=(LayerConfig(TaylorShiftConfig(), MLPConfig(48)),),
    ),
}


def language_model(*mixers: MixerConfig, feed_forward: FeedForwardConfig | None = None, seed: int = 0) -> LanguageModel:
    """Make a language model of these mixers, with an MLP behind each unless told otherwise."""
    layers = tuple(LayerConfig(mixer, feed_forward or MLPConfig(48)) for mixer in mixers)
    model = LanguageModel(ModelConfig(task="language_model", width=WIDTH, vocab_size=VOCAB, layers=layers))
    return randomised(model, seed)


def switch_all() -> LanguageModel:
    """Make a model whose feed-forward network is a mixture of experts too."""
    return language_model(SwitchHeadConfig(), feed_forward=MoEConfig(4, 2, 16))


def classifier(name: str) -> SequenceClassifier:
    """Make the classifier of this name in `CLASSIFIERS`."""
    return randomised(SequenceClassifier(CLASSIFIERS[name]))


def randomised(model: ModuleT, seed: int = 0) -> ModuleT:
    """Give every parameter random values of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.5
            parameter.normal_(0.0, spread, generator=generator)
    return model.eval()
