"""Stop strings end a text wherever the pieces are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_export.decoding.stopping import StopFilter
from hsm_export.errors import UsageError

LETTERS = st.text(alphabet="ab", max_size=30)


@given(
    pieces=st.lists(st.text(alphabet="ab", max_size=4), max_size=12), stops=st.lists(LETTERS.filter(bool), max_size=3)
)
def test_the_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    filter_ = StopFilter(stops)
    passed = ""
    seen = ""
    for piece in pieces:
        passed += filter_.push(piece)
        seen += piece
        # Whatever is certain is passed on at once: what is held back could still begin a stop string.
        held = seen[len(passed) :]
        if filter_.stopped:
            break
        assert held == "" or any(stop.startswith(held) for stop in stops)
    found = [index for stop in stops if (index := seen.find(stop)) >= 0]
    assert filter_.stopped == bool(found)
    passed += filter_.finish()
    assert passed == (seen[: min(found)] if found else seen)


def test_without_stop_strings_nothing_is_held_back() -> None:
    filter_ = StopFilter(())
    assert filter_.push("any") == "any"
    assert filter_.finish() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        StopFilter(["x", ""])
