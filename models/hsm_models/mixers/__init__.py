"""Sequence mixers: modules that move information between the tokens of a sequence.

Each maps x (B,T,D) to (B,T,D). The causal ones also decode: `initial_state(batch, capacity)` makes an empty state
and `forward_cached(x, state, position, lengths)` continues from it.
"""

from __future__ import annotations

from ..config import HSMConfig, MixerConfig, SoftmaxConfig, SwitchHeadConfig, TaylorShiftConfig
from ..errors import ConfigError
from .hsm import HSM
from .mixer import Mixer
from .softmax import SoftmaxAttention
from .switch_head import SwitchHead
from .taylor_shift import TaylorShift

__all__ = ["HSM", "Mixer", "SoftmaxAttention", "SwitchHead", "TaylorShift", "build_mixer"]


def build_mixer(config: MixerConfig, width: int, layer_index: int) -> Mixer:
    """Make the mixer that a configuration describes.

    Args:
        config: the mixer's configuration.
        width: the model's width D.
        layer_index: index of the layer, from 0; sets HSM's default shift 2**layer_index.

    Raises:
        ConfigError: the configuration names a user-written mixing, which only its author's code can build.
    """
    if isinstance(config, HSMConfig):
        return _build_hsm(config, width, layer_index)
    if isinstance(config, TaylorShiftConfig):
        return TaylorShift(
            width,
            heads=config.heads,
            head_dim=config.head_dim,
            causal=config.causal,
            normalize=config.normalize,
            output_norm=config.output_norm,
            form=config.form,
            bias=config.bias,
        )
    if isinstance(config, SwitchHeadConfig):
        return SwitchHead(
            width,
            heads=config.heads,
            head_dim=config.head_dim,
            experts=config.experts,
            active=config.active,
            positions=config.positions,
            rope_fraction=config.rope_fraction,
            rope_base=config.rope_base,
            same_selection=config.same_selection,
            window=config.window,
        )
    assert isinstance(config, SoftmaxConfig)
    return SoftmaxAttention(
        width,
        heads=config.heads,
        head_dim=config.head_dim,
        positions=config.positions,
        rope_base=config.rope_base,
        bias=config.bias,
        window=config.window,
    )


def _build_hsm(config: HSMConfig, width: int, layer_index: int) -> HSM:
    if config.mixing == "custom":
        raise ConfigError(
            "a configuration with mixing 'custom' cannot be rebuilt: build the model in your own code with "
            "HSM(width, mixing=your_module) and export that module"
        )
    return HSM(
        width,
        shifts=config.shifts if config.shifts is not None else (2**layer_index,),
        mixing=config.mixing,
        padding=config.padding,
        hidden=config.hidden,
    )
