"""The vocabulary files of RWKV's World models, such as rwkv_vocab_v20230424.txt."""

from __future__ import annotations

import ast
from pathlib import Path

from ..errors import BadInputError

# The published file has 65,529 lines and 1.2 MB; the C++ runtime has the same limits.
MOST_BYTES = 16 * 1024 * 1024
MOST_ID = (1 << 20) - 1
_CURE = "it has lines of an id, a text or bytes as Python writes them, and their length: 258 '\\n\\n' 2"


def read_vocabulary(path: Path) -> dict[int, bytes]:
    """Return the tokens by id.

    Args:
        path: lines `ID LITERAL LENGTH`: a literal of Python's str or bytes, and its number of bytes in UTF-8. Ids begin
            at 1; 0 ends a text.

    Raises:
        BadInputError: a line is none of these, or an id or token is there twice.
    """
    if path.stat().st_size > MOST_BYTES:
        raise BadInputError(f"{path} is larger than 16 MB, and no vocabulary of RWKV")
    tokens: dict[int, bytes] = {}
    seen: set[bytes] = set()
    # Not splitlines: literals may hold other marks that end a line for Unicode.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        index, token = _read_line(line.removesuffix(b"\r"), where)
        if index in tokens or token in seen:
            raise BadInputError(f"{where}: the {'id' if index in tokens else 'token'} is there already", _CURE)
        tokens[index] = token
        seen.add(token)
    if not tokens:
        raise BadInputError(f"{path} holds no tokens", _CURE)
    return tokens


def _read_line(line: bytes, where: str) -> tuple[int, bytes]:
    index, _, rest = line.strip().partition(b" ")
    literal, _, length = rest.rpartition(b" ")
    try:
        value = ast.literal_eval(literal.decode("utf-8").strip())
        token = value.encode("utf-8") if isinstance(value, str) else value
        fits = isinstance(token, bytes) and index.isdigit() and length.isdigit() and len(token) == int(length)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise BadInputError(f"{where} is no line of RWKV's vocabulary", _CURE) from error
    if not fits or not token or not 0 < int(index) <= MOST_ID:
        raise BadInputError(f"{where} is no line of RWKV's vocabulary", _CURE)
    return int(index), token
