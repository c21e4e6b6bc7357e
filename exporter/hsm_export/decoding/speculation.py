"""Speculative decoding: a small model proposes tokens, a large one checks them many at a time.

Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", algorithm 1; the C++ runtime has the
same (plugins/runtime/include/hsm_runtime/speculation.h).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .sampling import GREEDY, Sampling, candidates, changed, uniform
from .session import DecodeSession, Snapshot

Weights = NDArray[np.float64]


class Speculation:
    """One sequence, whose tokens have the distribution of the target model alone; greedy ones are its tokens.

    Args:
        target: a session of one row, whose file returns the logits of every token.
        draft: a session of one row of a model with the same token ids.
        sampling: how tokens are chosen, in both models; without penalties, which depend on the tokens before.
        seed: of the sequence's random numbers.
        draft_tokens: tokens that the draft proposes at a time.

    Attributes:
        proposed: tokens that the draft has proposed.
        accepted: those of them that the target took.

    Raises:
        UsageError: sessions or settings that do not fit.
    """

    def __init__(
        self,
        target: DecodeSession,
        draft: DecodeSession,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        draft_tokens: int = 4,
    ) -> None:
        if target.vocab_size != draft.vocab_size:
            raise UsageError(f"the draft has {draft.vocab_size} token ids, the target {target.vocab_size}")
        if target.last_only:
            raise UsageError("the target returns the logits of the last token only", "export it without --last-logits")
        if sampling.has_penalties:
            raise UsageError("penalties depend on the tokens before, and speculative decoding looks ahead")
        if draft_tokens < 1:
            raise UsageError(f"the draft proposes at least one token at a time, got {draft_tokens}")
        for session in (target, draft):
            session.reset(1)
        self.proposed = self.accepted = 0
        self._target, self._draft = target, draft
        self._sampling, self._seed, self._most = sampling, seed, draft_tokens
        self._drawn = 0
        self._last: NDArray[Any] | None = None
        self._unread: list[int] = []  # by the draft; the target lacks the last of them

    def prefill(self, tokens: Sequence[int]) -> None:
        """Read the prompt, or more of it before the first token.

        Raises:
            UsageError: no tokens, or tokens that do not fit, or a token was made already.
        """
        if self._unread:
            raise UsageError("a prompt comes before the first token")
        if not tokens:
            raise UsageError("a prompt needs at least one token id")
        self._draft.step([list(tokens)])
        self._last = self._target.last_logits([list(tokens)])[0]

    def next(self) -> list[int]:
        """Return the next tokens: 1 to draft_tokens + 1, fewer where a capacity ends.

        Raises:
            UsageError: nothing was read yet, or the sequence has reached its capacity.
        """
        if not self._unread:
            if self._last is None:
                raise UsageError("nothing was read yet", "give a prompt")
            self._unread = [_draw(self._weights(self._last), self._uniform())]
            return list(self._unread)
        left, in_draft = _room(self._target), _room(self._draft)
        if left < 1:
            raise UsageError("the sequence has reached its capacity")
        return self._round(max(0, min(self._most, left - 1, in_draft - len(self._unread) + 1)))

    def _round(self, count: int) -> list[int]:
        before = _before(self._target, count), _before(self._draft, count)
        pending, read = self._unread[-1], list(self._unread)
        proposed: list[int] = []
        by_draft: list[Weights] = []
        for index in range(count):
            logits = self._draft.step([self._unread if index == 0 else proposed[-1:]])[0, -1]
            by_draft.append(self._weights(logits))
            proposed.append(_draw(by_draft[-1], self._uniform()))
        by_target = [self._weights(row) for row in self._target.step([[pending, *proposed]])[0]]
        tokens = judge(proposed, by_draft, by_target, self._uniform)
        taken = len(tokens) - 1
        self.proposed += count
        self.accepted += taken
        _forget(self._target, before[0], [pending, *proposed], count - taken)
        if count == 0:
            self._unread.append(tokens[-1])
            return tokens
        _forget(self._draft, before[1], [*read, *proposed[:-1]], max(0, count - 1 - taken))
        self._unread = tokens[-1:] if taken < count else [proposed[-1], tokens[-1]]
        return tokens

    def _uniform(self) -> float:
        self._drawn += 1
        return uniform(self._seed, self._drawn - 1)

    def _weights(self, logits: NDArray[Any]) -> Weights:
        """Return the probabilities (V,) of the next token."""
        adjusted = changed(logits, self._sampling)
        found = np.zeros(len(adjusted))
        if self._sampling.temperature == 0:
            found[np.argmax(adjusted)] = 1
        else:
            ids, weights = candidates(adjusted, self._sampling)
            found[ids] = weights / weights.sum()
        return found


def judge(
    proposed: Sequence[int],
    by_draft: Sequence[Weights],
    by_target: Sequence[Weights],
    uniform: Callable[[], float],
) -> list[int]:
    """Return the proposals before the first refused one, and one token more.

    Args:
        proposed: token i was drawn from `by_draft[i]`.
        by_draft, by_target: probabilities (V,); the target has one distribution more.
        uniform: gives numbers in [0, 1).
    """
    tokens: list[int] = []
    for token, q, p in zip(proposed, by_draft, by_target, strict=False):
        if uniform() * q[token] < p[token]:
            tokens.append(token)
            continue
        rest = np.maximum(0.0, p - q)  # what the draft proposes too seldom; nothing by rounding alone
        return [*tokens, _draw(rest if rest.any() else p, uniform())]
    return [*tokens, _draw(by_target[len(proposed)], uniform())]


def _draw(weights: Weights, uniform: float) -> int:
    cumulative = np.cumsum(weights)
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return min(index, int(np.flatnonzero(weights)[-1]))


def _room(session: DecodeSession) -> int:
    """Return how many tokens the row may read yet."""
    return 2**62 if session.capacity is None else session.capacity - int(session.positions[0])


def _before(session: DecodeSession, tokens: int) -> Snapshot | None:
    """Return what brings a session back whose states hold no single tokens."""
    return None if session.can_roll_back(tokens) else session.snapshot()


def _forget(session: DecodeSession, before: Snapshot | None, read: list[int], count: int) -> None:
    """Take back the last `count` tokens of those that were read since the snapshot."""
    if count == 0:
        return
    if before is None:
        session.rollback(count)
        return
    session.restore(before)
    if kept := read[: len(read) - count]:
        session.step([kept])
