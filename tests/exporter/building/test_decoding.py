"""Decoding files become one engine with a profile for single steps and one for prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.exporter.decoding.harness import decode_file

import hsm_export

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

ZOO = ("hsm-lm", "hsm-hybrid-lm", "switch-head-lm", "taylor-shift-lm", "baseline-softmax")


def test_steps_and_prompts_share_an_engine(tmp_path: Path) -> None:
    result = hsm_export.build(decode_file("hsm-vector"), tmp_path / "m.engine", architectures=["sm86"])
    assert [str(profile["length"]) for profile in result.profiles] == ["1", "1:512:4096"]
    described = hsm_export.inspect(tmp_path / "m.engine")
    names = [border.name for border in described.engine.inputs]  # type: ignore[union-attr]
    assert names == ["tokens", "position", "lengths", "past.0.ring", "past.1.ring"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ZOO)
def test_every_zoo_model(name: str, precision: str, tmp_path: Path) -> None:
    profiles = [{"batch": "1:1:4", "length": 1}, {"batch": "1:1:4", "length": "1:128:1024"}]
    result = hsm_export.build(
        decode_file(f"zoo:{name}", precision), tmp_path / "m.engine", architectures=["sm86"], profiles=profiles
    )
    assert [str(profile["length"]) for profile in result.profiles] == ["1", "1:128:1024"]
    assert result.engine.stat().st_size > 0
