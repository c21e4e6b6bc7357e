"""Base of the typed results that commands return and the CLI prints."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Reduce a value to what `json.dumps(..., allow_nan=False)` takes: non-finite floats become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


class Result:
    """A dataclass that turns into plain JSON data; subclass it with `@dataclass(frozen=True)`."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data (paths as strings, NaN and infinities as strings)."""
        data = plain(self)
        assert isinstance(data, dict)
        return data
