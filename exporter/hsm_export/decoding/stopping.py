"""Stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError


class StopFilter:
    """Passes text on up to the first stop string, which itself is never passed on, nor any beginning of it.

    Args:
        stops: the stop strings; none of them empty.

    Raises:
        UsageError: an empty stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise UsageError("a stop string must not be empty")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Return the text that certainly stands before any stop string; `stopped` then says whether one came."""
        self._held += text
        found = [index for stop in self._stops if (index := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
        end = min(found) if found else len(self._held) - self._possible_start()
        passed, self._held = self._held[:end], "" if found else self._held[end:]
        return passed

    def finish(self) -> str:
        """Return what was held back."""
        text, self._held = self._held, ""
        return text

    def _possible_start(self) -> int:
        """Return the length of the longest end of the held text with which a stop string begins."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
