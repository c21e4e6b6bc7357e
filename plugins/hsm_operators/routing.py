"""Watch and steer the routing of expert products, for validation.

Which experts a token takes is a discontinuous choice: a tiny error may flip it. To compare two computations beyond such
flips, one is run with the other's selection. Outside the blocks below a call costs one look at a global, on which
compiled models depend as on nothing else here; inside them compiled models leave their graphs at each call.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

_Hook = Callable[[Tensor, int], Tensor]

_recorded: ContextVar[list[Tensor] | None] = ContextVar("recorded", default=None)
_forced: ContextVar[Iterator[Tensor] | None] = ContextVar("forced", default=None)
# What calls go through while a block is open in any thread.
_hook: _Hook | None = None
_open_blocks = 0
_lock = threading.Lock()


@contextlib.contextmanager
def record_routing() -> Iterator[list[Tensor]]:
    """Collect the logits (B,T,H,E) of every expert product inside the block, in the order of the calls."""
    calls: list[Tensor] = []
    token = _recorded.set(calls)
    try:
        with _hooked():
            yield calls
    finally:
        _recorded.reset(token)


@contextlib.contextmanager
def force_routing(masks: Sequence[Tensor]) -> Iterator[None]:
    """Give each expert product inside the block, in the order of the calls, the experts that it must take.

    Args:
        masks: bool (B,T,H,E) per call, with exactly k experts true for each token and head.

    Raises:
        ValueError: in a call for which no mask is left, or whose mask has another shape or number of experts.
    """
    token = _forced.set(iter(masks))
    try:
        with _hooked():
            yield
    finally:
        _forced.reset(token)


def observe(logits: Tensor, k: int) -> Tensor:
    """Record the logits of one call that takes k experts, and return those that its selection is made of."""
    return logits if _hook is None else _hook(logits, k)


@contextlib.contextmanager
def _hooked() -> Iterator[None]:
    global _hook, _open_blocks
    with _lock:
        _open_blocks += 1
        _hook = _untraced_steer()
    try:
        yield
    finally:
        with _lock:
            _open_blocks -= 1
            if not _open_blocks:
                _hook = None


@functools.cache
def _untraced_steer() -> _Hook:
    """Return `_steer` as torch.compile calls it without looking inside; made late, because it imports the compiler."""
    untraced: _Hook = torch.compiler.disable(_steer)
    return untraced


def _steer(logits: Tensor, k: int) -> Tensor:
    calls = _recorded.get()
    if calls is not None:
        calls.append(logits.detach().clone())
    masks = _forced.get()
    if masks is None:
        return logits
    mask = next(masks, None)
    if mask is None or mask.shape != logits.shape:
        found = "no mask is left" if mask is None else f"the next mask is {tuple(mask.shape)}"
        raise ValueError(f"forced routing: a call has logits {tuple(logits.shape)}, but {found}")
    if not bool((mask.sum(-1) == k).all()):
        raise ValueError(f"forced routing: a mask must choose exactly {k} experts for each token and head")
    return torch.where(mask, logits, -torch.inf)
