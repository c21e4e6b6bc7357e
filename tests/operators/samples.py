"""Operators as users define them: derived bodies, held and open attributes, steps with states, a written body."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import hsm_export

F = torch.nn.functional


@hsm_export.operator(
    "samples::WindowMean",
    "x[B,T,D], gain[D] -> y[B,T,D]",
    cost=hsm_export.Cost("5*B*T*D", "5D"),
    attributes=[hsm_export.Attribute("span", "int", "How many tokens.", least=1)],
    lengths=["span", "span + 1"],
)
def window_mean(x: Tensor, gain: Tensor, *, span: int = 3) -> Tensor:
    """y = x + gain * mean of the `span` tokens before it."""
    padded = F.pad(x, (0, 0, span, 0)).cumsum(1)
    sums = F.pad(padded, (0, 0, 1, 0))
    length = x.shape[1]
    return x + gain * (sums[:, span : span + length] - sums[:, :length]) / span


@hsm_export.operator("samples::Taps", "x[B,T,D], weight[K,D] -> y[B,T,D]")
def taps(x: Tensor, weight: Tensor, *, dilations: list[int], causal: bool = True, scale: float = 1.0) -> Tensor:
    """Sum of shifted inputs: the code loops over the dilations, so the body holds them."""
    y = torch.zeros_like(x)
    for index, dilation in enumerate(dilations):
        moved = (
            F.pad(x, (0, 0, dilation, 0))[:, : x.shape[1]] if causal else F.pad(x, (0, 0, 0, dilation))[:, dilation:]
        )
        y = y + moved * weight[index]
    return y * scale


GATED = (
    "q[B,T,H,K], k[B,T,H,K], v[B,T,H,V], gate[B,T,H,K], bias[H,K], state: float32[B,H,K,V], lengths: int64[B] in 0..T"
    " -> y[B,T,H,V], state"
)


@hsm_export.operator("samples::GatedLinear", GATED, step=True, cost=hsm_export.Cost("6*B*T*H*K*V", "6HKV"))
def gated_linear(state: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Gated linear attention: the state decays by the gate of each key channel."""
    decay = torch.sigmoid(gate + torch.tanh(bias))
    state = state * decay[..., None] + k[..., None] * v[..., None, :]
    return state, (q[..., None, :] @ state)[..., 0, :]


@hsm_export.operator(
    "samples::ConvState", "x[B,T,D], w[K,D], past: float32[B,R=K-1,D] -> y[B,T,D], past", step=True, description="A"
)
def conv_state(x: Tensor, w: Tensor, past: Tensor, *, gain: int = 1) -> tuple[Tensor, Tensor]:
    """A short convolution whose window is the state."""
    window = torch.cat((past, x[:, None]), 1)
    return window[:, 1:], (window * w).sum(1) * gain


WRITTEN = """
  x32 = Cast <to = 1> (x)
  factor_int = Constant <value_int: int = @factor> ()
  factor = Cast <to = 1> (factor_int)
  scaled = Mul (x32, factor)
  y = CastLike (scaled, x)
"""


@hsm_export.operator("samples::Scale", "x[B,T,D] -> y[B,T,D]", body=WRITTEN)
def scale(x: Tensor, *, factor: int) -> Tensor:
    """y = factor x, with a body of one's own."""
    return x * factor


class Mixed(nn.Module):
    """A module of width 16 that uses all of them, two with several attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(16) * 0.3)
        self.weight = nn.Parameter(torch.randn(3, 16) * 0.5)
        self.project = nn.Linear(16, 64)
        self.bias = nn.Parameter(torch.randn(2, 8))
        self.taps = nn.Parameter(torch.randn(4, 16) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = window_mean(x, self.gain, span=2) + window_mean(x, self.gain, span=5)
        x = x + taps(x, self.weight, dilations=[1, 2, 4], scale=0.5)
        x = x + taps(x, self.weight[:2], dilations=[3, 1], causal=False)
        q, k, v, gate = self.project(x).reshape(x.shape[0], x.shape[1], 4, 2, 8).unbind(2)
        y, _ = gated_linear(q, k, v, gate, self.bias)
        y, _ = conv_state(y.flatten(2), self.taps, gain=2)
        return scale(y, factor=3)


def mixed() -> Mixed:
    """Return the module with the same weights in every process."""
    torch.manual_seed(0)
    return Mixed().eval()
