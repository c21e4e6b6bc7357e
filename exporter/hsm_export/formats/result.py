"""Base of the typed results that commands return and the CLI prints."""

from __future__ import annotations

from typing import Any

from .document import plain


class Result:
    """A dataclass that turns into plain JSON data; subclass it with `@dataclass(frozen=True)`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data (paths as strings, NaN and infinities as strings)."""
        data = plain(self)
        assert isinstance(data, dict)
        return data
