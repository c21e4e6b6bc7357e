"""Architectures and targets: which are refused, and with which words."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from hsm_export.building import targets
from hsm_export.building.cuda_driver import Driver
from hsm_export.errors import BuildRefusedError, MissingDependencyError, UsageError


def test_spellings_are_equal_and_the_order_is_numeric() -> None:
    assert targets.parse_architectures("SM120, 8.6,sm_80,86") == ("sm80", "sm86", "sm120")
    assert targets.parse_architectures(["89", "sm121"]) == ("sm89", "sm121")


@pytest.mark.parametrize("name", ["sm90", "9.0", "sm100", "sm87", "sm70"])
def test_architectures_that_tensorrt_rtx_lacks_name_the_alternative(name: str) -> None:
    with pytest.raises(BuildRefusedError, match="does not build for") as caught:
        targets.parse_architectures(["sm86", name])
    assert "--target tensorrt" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", " , ", "sm42", "ampere", "sm8666"])
def test_what_is_no_architecture_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        targets.parse_architectures(text)


def test_turing_takes_neither_bf16_nor_fp32_products() -> None:
    with pytest.raises(BuildRefusedError, match="bf16"):
        targets.check_architectures(("sm75", "sm86"), {"bfloat16": {"Mul"}})
    with pytest.raises(BuildRefusedError, match="MatMul"):
        targets.check_architectures(("sm75",), {"float32": {"MatMul", "Add"}})
    targets.check_architectures(("sm75",), {"float32": {"Add"}, "float16": {"MatMul"}})
    targets.check_architectures(("sm80",), {"float32": {"MatMul"}, "bfloat16": {"MatMul"}})


def _hide(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name in hidden else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)


def test_a_missing_builder_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "tensorrt_rtx")
    with pytest.raises(MissingDependencyError, match="tensorrt_rtx") as caught:
        targets.check_target("tensorrt-rtx")
    assert "hsm-export[rtx]" in str(caught.value.hint)


def test_tensorrt_without_a_gpu_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "tensorrt")
    monkeypatch.setattr(targets, "probe", lambda: Driver(None, (), "no NVIDIA driver is installed"))
    with pytest.raises(MissingDependencyError, match=r"tensorrt and an NVIDIA GPU \(no NVIDIA driver") as caught:
        targets.check_target("tensorrt")
    assert "--target tensorrt-rtx" in str(caught.value.hint)


def test_an_unknown_target_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="openvino"):
        targets.check_target("openvino")
