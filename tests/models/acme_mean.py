"""A mixer that is not ours, as someone outside this repository writes it: one file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hsm_models import ConfigError, Mixer, MixerConfig, Place, State, StateEntry, mixer


@dataclass(frozen=True)
class MeanConfig(MixerConfig):
    """The mean over all tokens so far, one weight per group of channels.

    Attributes:
        groups: groups of channels; they divide the width. None means one for each channel.
        bias: bias of the output projection.
    """

    groups: int | None = None
    bias: bool = True

    def check(self, place: Place) -> None:
        super().check(place)
        if self.groups is not None and place.width % self.groups:
            raise ConfigError(f"{place.where}: groups {self.groups} do not divide the width {place.width}")

    def resolved(self, place: Place) -> MeanConfig:
        return MeanConfig(self.groups or place.width, self.bias)


@mixer("acme_mean", MeanConfig)
class Mean(Mixer):
    """y_t = W g (x_0 + ... + x_t) / (t + 1)."""

    def __init__(self, width: int, config: MeanConfig) -> None:
        super().__init__()
        assert config.groups is not None
        self.width = width
        self.gain = nn.Parameter(torch.ones(config.groups, 1))
        self.proj = nn.Linear(width, width, bias=config.bias)

    def mix(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        nothing = torch.zeros(x.shape[0], dtype=torch.int64)
        return self._project(_sums(x), nothing, x)

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        return {"sum": StateEntry((1, self.width), type="accumulator")}

    def forward_cached(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        before = state["sum"]
        sums = torch.cat((before, before + _sums(x)), dim=1)
        after = sums[torch.arange(x.shape[0]), lengths].unsqueeze(1)
        return self._project(sums[:, 1:], position, x), {"sum": after}

    def _project(self, sums: Tensor, position: Tensor, x: Tensor) -> Tensor:
        count = position.unsqueeze(1) + 1 + torch.arange(x.shape[1])
        mean = (sums / count.unsqueeze(-1)).to(x.dtype)
        return self.proj((mean.unflatten(-1, (len(self.gain), -1)) * self.gain).flatten(-2))


def _sums(x: Tensor) -> Tensor:
    """Sum in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).cumsum(1)
