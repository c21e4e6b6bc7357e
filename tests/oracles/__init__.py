"""What every operator and mixer computes, in float64 NumPy straight from the definitions; imports nothing of ours.

Operators, with the arguments of `hsm_models.ops` as float64 (and int64) arrays; outputs beyond `lengths` are NaN:

    token_shift(x, shifts) -> y
    shift_mix(x, alpha, beta, shifts) -> y
    token_shift_cached(x, ring, position, lengths, shifts) -> y, ring_out
    shift_mix_cached(x, alpha, beta, ring, position, lengths, shifts) -> y, ring_out
    taylor_shift(q, k, v, temperature, normalize, output_norm) -> y
    taylor_shift_masked(q, k, v, temperature, lengths, normalize, output_norm) -> y
    causal_taylor_shift(q, k, v, temperature, state, norm, lengths, normalize) -> y, state_out, norm_out
    expert_matmul(x, logits, weight, k) -> y
    expert_matmul_sum(x, logits, weight, k) -> y

Whole mixers are in `switch_head`, for one sequence (T,D): `switch_head`, `switch_head_dense` (one expert), `sigma_moe`.
"""

from .experts import expert_matmul, expert_matmul_sum
from .hsm import shift_mix, shift_mix_cached, token_shift, token_shift_cached
from .taylor_shift import causal_taylor_shift, taylor_shift, taylor_shift_masked

__all__ = [
    "causal_taylor_shift",
    "expert_matmul",
    "expert_matmul_sum",
    "shift_mix",
    "shift_mix_cached",
    "taylor_shift",
    "taylor_shift_masked",
    "token_shift",
    "token_shift_cached",
]
