"""DecayedLinearAttention and DecayedDeltaRule: linear attention whose state decays (README.md has the formulas).

Inside a chunk of tokens the direct form is used, across chunks the state (B,H,K,V): prefill, chunks and single steps
are one operator. Decays between two tokens are sums of logarithms over the tokens between them alone, so that nothing
overflows or cancels, and a decay of 0 (a logarithm of minus infinity) is a number like any other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import accumulator
from ..registration import register, require

_CHUNK = 16


def decayed_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, lengths: Tensor, exclusive: bool = False
) -> tuple[Tensor, Tensor]:
    """S_t = diag(exp(log_decay_t)) S_(t-1) + k_t v_t^T, read with q_t.

    Args:
        q, k: (B,T,H,K), any float dtype.
        v: (B,T,H,V) of the same dtype.
        log_decay: (B,T,H,K), one logarithm for each row of the state, or (B,T,H,1), one for the head; at most 0.
        state: (B,H,K,V), float32 (float64 for float64 q), zero at the start.
        lengths: (B,) int64, valid tokens of each row in this call, 0..T.
        exclusive: read S_(t-1) instead of S_t.

    Returns:
        y (B,T,H,V) of q's dtype, unspecified beyond `lengths`, and the state after the valid tokens.

    Raises:
        ValueError: shapes or dtypes that contradict each other.
    """
    y, state_out = _decayed_linear_attention(q, k, v, log_decay, state, lengths, exclusive)
    return y, state_out


def decayed_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, a: Tensor, b: Tensor, state: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = (diag(exp(log_decay_t)) + b_t a_t^T) S_(t-1) + k_t v_t^T, read with q_t.

    Args:
        a: (B,T,H,K), what reads the state before the token and its decay.
        b: (B,T,H,K), the key under which what was read is added.

    The other arguments, the result and the errors are those of `decayed_linear_attention`.
    """
    y, state_out = _decayed_delta_rule(q, k, v, log_decay, a, b, state, lengths)
    return y, state_out


def _check(q: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, lengths: Tensor, **keys: Tensor) -> None:
    require(q.dim() == 4 and q.is_floating_point(), f"q must be (B,T,H,K) and float, got {q.dtype} {tuple(q.shape)}")
    batch, length, heads, width = q.shape
    for name, tensor in keys.items():
        require(
            tensor.shape == q.shape and tensor.dtype == q.dtype,
            f"{name} must be {q.dtype} {tuple(q.shape)} like q, got {tensor.dtype} {tuple(tensor.shape)}",
        )
    require(
        v.dim() == 4 and v.shape[:3] == q.shape[:3] and v.dtype == q.dtype,
        f"v must be {q.dtype} ({batch},{length},{heads},V), got {v.dtype} {tuple(v.shape)}",
    )
    require(
        log_decay.shape in (q.shape, (batch, length, heads, 1)) and log_decay.dtype == q.dtype,
        f"log_decay must be {q.dtype} ({batch},{length},{heads},{width} or 1), "
        f"got {log_decay.dtype} {tuple(log_decay.shape)}",
    )
    wide, shape = accumulator(q.dtype), (batch, heads, width, v.shape[3])
    require(
        state.dtype == wide and tuple(state.shape) == shape,
        f"state must be {wide} of shape {shape}, got {state.dtype} of {tuple(state.shape)}",
    )
    require(
        lengths.dtype == torch.int64 and tuple(lengths.shape) == (batch,),
        f"lengths must be int64 of shape ({batch},), got {lengths.dtype} of {tuple(lengths.shape)}",
    )


def _chunks(lengths: Tensor, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Return the tensors (B,T,H,·) chunk by chunk as (B,H,C,·), wide, zero where tokens are not valid."""
    batch, length = tensors[0].shape[:2]
    if not length:
        return []
    keep = torch.arange(length, device=lengths.device) < lengths.unsqueeze(1)
    keep = keep.reshape(batch, length, 1, 1)
    # Rows beyond the length may hold anything, NaN too, and zero times NaN would spread it into the state.
    valid = (torch.where(keep, tensor, 0).to(accumulator(tensor.dtype)).transpose(1, 2) for tensor in tensors)
    return list(zip(*(tensor.split(_CHUNK, 2) for tensor in valid), strict=True))


def _decays(log_decay: Tensor) -> Tensor:
    """Return (B,H,C,C+1,G): entry (t,j) decays from after token j-1 to after token t, 0 where that is later.

    Column 0 is the state before the chunk.
    """
    count = log_decay.shape[2]
    place = torch.arange(count + 1, device=log_decay.device)
    token, start = place[:count].reshape(-1, 1, 1), place.reshape(1, -1, 1)
    sums = torch.where(start <= token, log_decay.unsqueeze(3), 0).cumsum(2)
    return torch.where(start <= token + 1, sums.exp(), 0)


def _before(decays: Tensor) -> Tensor:
    """Return the decays (B,H,C,C+1,G) up to the token before each."""
    first = torch.zeros_like(decays[:, :, :1])
    first[:, :, :, 0] = 1
    return torch.cat((first, decays[:, :, :-1]), dim=2)


def _scores(q: Tensor, k: Tensor, decays: Tensor) -> Tensor:
    """Return (B,H,C,C): q_t against k_j, decayed."""
    return ((k.unsqueeze(2) * decays[:, :, :, 1:]) @ q.unsqueeze(4)).squeeze(4)


def _linear_chunk(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, exclusive: bool
) -> tuple[Tensor, Tensor]:
    """Return y (B,H,C,V) of one chunk and the state after it."""
    decays = _decays(log_decay)
    read = _before(decays) if exclusive else decays
    y = (q * read[:, :, :, 0]) @ state + _scores(q, k, read) @ v
    last = decays[:, :, -1]
    return y, last[:, :, :1].transpose(2, 3) * state + (k * last[:, :, 1:]).transpose(2, 3) @ v


def _delta_chunk(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return y (B,H,C,V) of one chunk and the state after it; u is what a reads, a triangular system."""
    decays = _decays(log_decay)
    before = _before(decays)
    known = (a * before[:, :, :, 0]) @ state + _scores(a, k, before) @ v
    own = torch.eye(a.shape[2], dtype=a.dtype, device=a.device)
    u = torch.linalg.solve_triangular(own - _scores(a, b, before), known, upper=False, unitriangular=True)
    y = (q * decays[:, :, :, 0]) @ state + _scores(q, k, decays) @ v + _scores(q, b, decays) @ u
    last = decays[:, :, -1]
    written = (k * last[:, :, 1:]).transpose(2, 3) @ v + (b * last[:, :, 1:]).transpose(2, 3) @ u
    return y, last[:, :, :1].transpose(2, 3) * state + written


def _linear_reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, lengths: Tensor, exclusive: bool
) -> tuple[Tensor, Tensor]:
    _check(q, v, log_decay, state, lengths, k=k)
    outputs = []
    for q_c, k_c, v_c, decay_c in _chunks(lengths, q, k, v, log_decay):
        y, state = _linear_chunk(q_c, k_c, v_c, decay_c, state, exclusive)
        outputs.append(y)
    return _tokens(outputs, v), state.contiguous() if outputs else state.clone()


def _delta_reference(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, a: Tensor, b: Tensor, state: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    _check(q, v, log_decay, state, lengths, k=k, a=a, b=b)
    outputs = []
    for q_c, k_c, v_c, decay_c, a_c, b_c in _chunks(lengths, q, k, v, log_decay, a, b):
        y, state = _delta_chunk(q_c, k_c, v_c, decay_c, a_c, b_c, state)
        outputs.append(y)
    return _tokens(outputs, v), state.contiguous() if outputs else state.clone()


def _tokens(chunks: list[Tensor], v: Tensor) -> Tensor:
    """Join chunks (B,H,C,V) to (B,T,H,V) of v's dtype; no chunks are no tokens."""
    return torch.cat(chunks, dim=2).transpose(1, 2).to(v.dtype).contiguous() if chunks else v.new_empty(v.shape)


def _linear_fake(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, lengths: Tensor, exclusive: bool
) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), state.new_empty(state.shape)


def _delta_fake(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, a: Tensor, b: Tensor, state: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), state.new_empty(state.shape)


_decayed_linear_attention = register(
    "decayed_linear_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor log_decay, Tensor state, Tensor lengths, bool exclusive)"
    " -> (Tensor, Tensor)",
    _linear_reference,
    _linear_fake,
)
_decayed_delta_rule = register(
    "decayed_delta_rule",
    "(Tensor q, Tensor k, Tensor v, Tensor log_decay, Tensor a, Tensor b, Tensor state, Tensor lengths)"
    " -> (Tensor, Tensor)",
    _delta_reference,
    _delta_fake,
)
