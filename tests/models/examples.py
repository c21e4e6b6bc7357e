"""Small configurations of every kind of model, for tests."""

from __future__ import annotations

from hsm_models import (
    GatedConvolutionConfig,
    GatedMLPConfig,
    HSMConfig,
    ImageConfig,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    RWKV7ChannelConfig,
    RWKV7Config,
    SoftmaxConfig,
    SwitchHeadConfig,
    TaylorShiftConfig,
)

WIDTH = 16

_MLP = MLPConfig(24)

LANGUAGE_MODELS = {
    "hsm": ModelConfig(
        task="language_model",
        width=WIDTH,
        vocab_size=11,
        layers=tuple(LayerConfig(HSMConfig(mixing=m), _MLP) for m in ("vector", "gated2", "matrix")),
    ),
    "hybrid": ModelConfig(
        task="language_model",
        width=WIDTH,
        vocab_size=11,
        tie_embeddings=True,
        layers=(
            LayerConfig(HSMConfig(shifts=(1, 3), padding="learned"), _MLP),
            LayerConfig(SoftmaxConfig(heads=2), _MLP, layer_scale=True),
            LayerConfig(TaylorShiftConfig(heads=4, causal=True)),
            LayerConfig(SwitchHeadConfig(head_dim=6, positions="xl"), MoEConfig(4, 2, 8)),
        ),
    ),
    "switch_head": ModelConfig(
        task="language_model",
        width=WIDTH,
        vocab_size=11,
        embedding_scale=4.0,
        layers=(
            LayerConfig(SwitchHeadConfig(), MLPConfig(20, "relu")),
            LayerConfig(SwitchHeadConfig(experts=1, active=1)),
        ),
    ),
    "taylor_shift": ModelConfig(
        task="language_model",
        width=WIDTH,
        vocab_size=11,
        positions="sinusoidal",
        max_length=32,
        layers=(LayerConfig(TaylorShiftConfig(causal=True, value_dim=3), _MLP),),
    ),
    "learned_positions": ModelConfig(
        task="language_model",
        width=WIDTH,
        vocab_size=11,
        positions="learned",
        max_length=16,
        output_bias=False,
        layers=(LayerConfig(SoftmaxConfig(positions="none"), _MLP),),
    ),
    "based": ModelConfig(
        task="language_model",
        width=WIDTH,
        vocab_size=11,
        output_bias=False,
        tie_embeddings=True,
        norm_kind="rms",
        layers=(
            LayerConfig(GatedConvolutionConfig(), GatedMLPConfig(24)),
            LayerConfig(
                TaylorShiftConfig(2, 3, causal=True, normalize=False, bias=False, value_dim=8), GatedMLPConfig(24)
            ),
            LayerConfig(SoftmaxConfig(heads=2, bias=False, window=5), GatedMLPConfig(24, "gelu", bias=True)),
        ),
    ),
    "rwkv7": ModelConfig(
        task="language_model",
        width=WIDTH,
        vocab_size=11,
        output_bias=False,
        embedding_norm=True,
        layers=(
            LayerConfig(RWKV7Config(heads=2, decay_rank=3, rate_rank=3, gate_rank=4)),
            LayerConfig(RWKV7ChannelConfig(24)),
            LayerConfig(RWKV7Config(heads=2, decay_rank=3, rate_rank=3, gate_rank=4, value_rank=2)),
            LayerConfig(RWKV7ChannelConfig(24)),
        ),
    ),
}

CLASSIFIERS = {
    "tokens": ModelConfig(
        task="sequence_classifier",
        width=WIDTH,
        vocab_size=9,
        positions="sinusoidal",
        max_length=64,
        norm_eps=1e-6,
        embedding_bias=True,
        classes=5,
        layers=(LayerConfig(TaylorShiftConfig(output_norm=True), _MLP, layer_scale=True),) * 2,
    ),
    "masked": ModelConfig(
        task="sequence_classifier",
        width=WIDTH,
        vocab_size=9,
        positions="learned",
        max_length=64,
        classes=5,
        masked=True,
        layers=(LayerConfig(TaylorShiftConfig(), _MLP),) * 2,
    ),
    "pixels": ModelConfig(
        task="sequence_classifier",
        width=WIDTH,
        vocab_size=17,
        input="pixels",
        pooling="mean",
        masked=True,
        classes=5,
        layers=(LayerConfig(HSMConfig(), _MLP), LayerConfig(TaylorShiftConfig(), _MLP)),
    ),
    "around": ModelConfig(
        task="sequence_classifier",
        width=WIDTH,
        vocab_size=9,
        masked=True,
        classes=5,
        layers=(
            LayerConfig(HSMConfig(shifts=(-1, 2), padding="learned", causal=False), _MLP),
            LayerConfig(HSMConfig(shifts=(0, -3), mixing="gated2", causal=False)),
            LayerConfig(SwitchHeadConfig(positions="xl", causal=False), _MLP),
        ),
    ),
    "image": ModelConfig(
        task="sequence_classifier",
        width=WIDTH,
        input="image",
        image=ImageConfig(size=12, patch=4),
        positions="learned",
        classes=5,
        layers=(LayerConfig(TaylorShiftConfig(), _MLP),),
    ),
}

MODELS = LANGUAGE_MODELS | CLASSIFIERS
