"""The JSON form of a diff: what `hsm-export diff --json` prints, and back.

`formats/diff.schema.gen.json`, generated from the dataclasses, says the same to readers in other languages.
"""

from __future__ import annotations

import json
from pathlib import Path

from ...files import atomic_path
from ...formats.document import read_file
from ..results import DiffResult

# 2,000 layers of 6 runtimes take 20 MB.
_MAX_BYTES = 256 * 1024 * 1024
_REMEDY = "name a report that `hsm-export diff` wrote as JSON"


def write_json(result: DiffResult, path: str | Path) -> None:
    """Write a result as JSON; NaN and infinities are the strings "nan", "inf" and "-inf".

    Raises:
        BadInputError: the file cannot be written.
    """
    text = json.dumps(result.to_dict(), separators=(",", ":"), allow_nan=False)
    with atomic_path(path) as scratch:
        scratch.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> DiffResult:
    """Read what `write_json` wrote, whoever wrote it.

    Raises:
        BadInputError: it is missing, too large, no JSON, of another schema, or a field is missing, unknown or of the
            wrong type.
    """
    return read_file(path, DiffResult, "a report of a diff", _REMEDY, most_bytes=_MAX_BYTES, whole=True)
