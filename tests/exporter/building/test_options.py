"""Options of a build: which contradict each other or their target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hsm_export.building.options import check_options
from hsm_export.errors import BadInputError, UsageError
from hsm_export.formats.build_options import EngineOptions as Options


@pytest.mark.parametrize(
    ("options", "target", "words"),
    [
        ({"embed_plugins": True}, "tensorrt-rtx", "--embed-plugins: TensorRT-RTX"),
        ({"version_compatible": True, "timing_cache": Path("c")}, "tensorrt-rtx", "--version-compatible and --timing"),
        ({"hardware_compatibility": "ampere+"}, "tensorrt-rtx", "--hardware-compatibility"),
        ({"hardware_compatibility": "hopper"}, "tensorrt", "'hopper'"),
        ({"embed_plugins": True}, "tensorrt", "version-compatible engines"),
        ({"embed_plugins": True, "version_compatible": True, "plugins": False}, "tensorrt", "contradict"),
    ],
)
def test_contradictions_are_usage_errors(options: dict[str, Any], target: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        check_options(Options(**options), target)
    assert caught.value.hint


def test_what_fits_is_taken(tmp_path: Path) -> None:
    check_options(Options(), "tensorrt-rtx")
    check_options(Options(plugins=True, weight_streaming=True), "tensorrt-rtx")
    full = Options(
        embed_plugins=True,
        version_compatible=True,
        hardware_compatibility="ampere+",
        timing_cache=str(tmp_path / "timing.cache"),
    )
    check_options(full, "tensorrt")


def test_a_timing_cache_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="does not exist"):
        check_options(Options(timing_cache=str(tmp_path / "missing" / "timing.cache")), "tensorrt")


def test_plugins_are_the_default_where_the_vendor_supports_them() -> None:
    assert Options().use_plugins("tensorrt")
    assert not Options().use_plugins("tensorrt-rtx")
    assert Options(plugins=True).use_plugins("tensorrt-rtx")
    assert not Options(plugins=False).use_plugins("tensorrt")
