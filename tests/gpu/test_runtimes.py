"""TensorRT-RTX and ONNX Runtime's GPU providers keep the numbers, and what works here is timed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.gpu.zoo_files import MODELS, PRECISIONS, zoo_file

import hsm_export
from hsm_export.runtimes import get

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("runtime", ["ort-cuda", "ort-tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_numbers(name: str, precision: str, runtime: str, record_property: Callable[[str, object], None]) -> None:
    reason = get(runtime).available()
    if reason:
        pytest.skip(reason)
    result = hsm_export.validate(zoo_file(name, precision), f"zoo:{name}", runtimes=[runtime])
    record_property("error", f"{result.worst_error:.3g}")
    assert result.passed, result.summary


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_times(name: str, precision: str, record_property: Callable[[str, object], None]) -> None:
    runtimes = [item for item in ("tensorrt", "ort-cuda", "ort-tensorrt") if get(item).available() is None]
    if not runtimes:
        pytest.skip("no runtime on the GPU works here")
    path = zoo_file(name, precision)
    fixed = name == "taylor-shift-digits"
    result = hsm_export.bench(path, f"zoo:{name}", runtimes=runtimes, lengths=None if fixed else [128, 512])
    for measured in result.measurements:
        where = "" if measured.length is None else f" at length {measured.length}"
        record_property(f"{measured.runtime}{where}, ms", f"{1e3 * measured.seconds.median:.3g}")
    assert {measured.runtime for measured in result.measurements} == set(runtimes)
