"""Dataclasses from untrusted JSON: mappings, plain unions, what is checked elsewhere, and limits of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from hsm_models.dataclass_json import build_dataclass
from hsm_models.errors import ConfigError


@dataclass(frozen=True)
class Part:
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Whole:
    parts: Mapping[str, Part]
    anything: Any
    bytes: int = field(default=0, metadata={"limit": 2**53})
    count: int = 0


def test_values() -> None:
    data = {"parts": {"a": {"shape": [2, "batch"]}}, "anything": {"deep": [1, None]}, "bytes": 2**40}
    assert build_dataclass(Whole, data, "whole") == Whole({"a": Part((2, "batch"))}, {"deep": [1, None]}, 2**40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": []}, r"whole\.parts must be an object, got \[\]"),
        ({"parts": {"a": 1}}, r"whole\.parts\['a'\] must be an object with fields"),
        ({"parts": {"a": {"shape": [True]}}}, r"shape\[0\] must be of type int or str, got True"),
        ({"parts": {"a": {"shape": [1.5]}}}, "must be of type int or str"),
        ({"parts": {"a": {"shape": [2**31]}}}, r"below 2\*\*31"),
        ({"count": 2**31}, r"whole\.count must be finite and below 2\*\*31"),
        ({"bytes": 2**53}, r"whole\.bytes must be finite and below 2\*\*53"),
        ({"bytes": float("nan")}, "must be finite"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_dataclass(Whole, {"parts": {}, "anything": None, **change}, "whole")
