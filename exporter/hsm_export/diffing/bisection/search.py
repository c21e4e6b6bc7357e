"""Find the smallest set of positions that makes a run fail, by halving."""

from __future__ import annotations

from collections.abc import Callable, Collection


class CulpritSearch:
    """Finds a set that fails and of which no member can be left out.

    With every position the bad way a run fails, with none it passes. Halving finds the shortest prefix that fails: its
    last position is a culprit. With that one always the bad way, the next one is looked for before it, until the
    culprits alone fail. So m culprits among n positions take m (log2 n + 2) runs, and m more prove that each is needed.

    Args:
        fails: says whether a run with these positions the bad way fails.
        count: number of positions.
        progress: receives a phase in words.
    """

    def __init__(
        self, fails: Callable[[frozenset[int]], bool], count: int, progress: Callable[[str], None] | None = None
    ) -> None:
        self._fails = fails
        self._count = count
        self._progress = progress or (lambda phase: None)
        self._known: dict[frozenset[int], bool] = {frozenset(): False, frozenset(range(count)): True}

    def run(self) -> tuple[int, ...]:
        """Return the positions of the culprits in ascending order."""
        culprits: set[int] = set()
        end = self._count
        while not self._failing(culprits):
            last = self._last_needed(culprits, end)
            culprits.add(last)
            end = last
            self._progress(f"bisecting: {len(culprits)} found")
        return self._minimal(culprits)

    def _last_needed(self, culprits: Collection[int], end: int) -> int:
        """Return the last position of the shortest prefix that fails together with the culprits found so far."""
        passing, failing = 0, end
        while failing - passing > 1:
            middle = (passing + failing) // 2
            if self._failing({*range(middle), *culprits}):
                failing = middle
            else:
                passing = middle
        return failing - 1

    def _minimal(self, culprits: Collection[int]) -> tuple[int, ...]:
        """Leave out what can be left out: errors may cancel, so that the set found by halving need not be minimal."""
        kept = sorted(culprits)
        changed = True
        while changed:
            changed = False
            for position in list(kept):
                fewer = [other for other in kept if other != position]
                if fewer and self._failing(fewer):
                    kept, changed = fewer, True
        return tuple(kept)

    def _failing(self, positions: Collection[int]) -> bool:
        key = frozenset(positions)
        if key not in self._known:
            self._known[key] = self._fails(key)
        return self._known[key]
