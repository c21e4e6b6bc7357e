"""The operators of the domain `hsm` as torch operators: reference maths, fake kernels and gradients.

They know nothing of ONNX; the exporter maps each to the ONNX operator of the same name.
"""

from .causal_taylor_shift import causal_taylor_shift
from .expert_matmul import expert_matmul, expert_matmul_sum
from .routing import force_routing, record_routing
from .shift_mix import shift_mix, shift_mix_cached
from .taylor_shift import (
    feature_count,
    taylor_shift,
    taylor_shift_direct,
    taylor_shift_efficient,
    taylor_shift_masked,
)
from .token_shift import token_shift, token_shift_cached

__all__ = [
    "causal_taylor_shift",
    "expert_matmul",
    "expert_matmul_sum",
    "feature_count",
    "force_routing",
    "record_routing",
    "shift_mix",
    "shift_mix_cached",
    "taylor_shift",
    "taylor_shift_direct",
    "taylor_shift_efficient",
    "taylor_shift_masked",
    "token_shift",
    "token_shift_cached",
]
