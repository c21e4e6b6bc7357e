"""The operators of domain `hsm` as PyTorch functions; the folders of `hsm_operators` define them.

Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
"""

from hsm_operators.attention.torch_op import (
    attention,
    attention_cached,
    relative_attention,
    relative_attention_cached,
    window_attention_cached,
    window_relative_attention_cached,
)
from hsm_operators.causal_taylor_shift.torch_op import (
    causal_taylor_shift,
)
from hsm_operators.decayed_linear_attention.torch_op import (
    decayed_delta_rule,
    decayed_linear_attention,
)
from hsm_operators.expert_matmul.torch_op import (
    expert_matmul,
    expert_matmul_sum,
)
from hsm_operators.expert_mlp.torch_op import (
    expert_mlp,
)
from hsm_operators.quantized_expert_matmul.torch_op import (
    quantized_expert_matmul,
    quantized_expert_matmul_sum,
)
from hsm_operators.routing import (
    force_routing,
    record_routing,
)
from hsm_operators.shift_mix.torch_op import (
    shift_mix,
    shift_mix_cached,
    token_shift,
    token_shift_cached,
)
from hsm_operators.taylor_shift.torch_op import (
    feature_count,
    taylor_shift,
    taylor_shift_direct,
    taylor_shift_efficient,
    taylor_shift_masked,
)

__all__ = [
    "attention",
    "attention_cached",
    "causal_taylor_shift",
    "decayed_delta_rule",
    "decayed_linear_attention",
    "expert_matmul",
    "expert_matmul_sum",
    "expert_mlp",
    "feature_count",
    "force_routing",
    "quantized_expert_matmul",
    "quantized_expert_matmul_sum",
    "record_routing",
    "relative_attention",
    "relative_attention_cached",
    "shift_mix",
    "shift_mix_cached",
    "taylor_shift",
    "taylor_shift_direct",
    "taylor_shift_efficient",
    "taylor_shift_masked",
    "token_shift",
    "token_shift_cached",
    "window_attention_cached",
    "window_relative_attention_cached",
]
