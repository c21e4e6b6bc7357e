"""The CUDA report's claims, checked on the architectures that this machine's build has."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from tests.plugins.cuda.report import cuda_report, plugin_library
from tests.plugins.native import ROOT, built, needs

REPORT = ROOT / "docs" / "cuda-report.md"


def _kernels_and_launches() -> tuple[Any, list[Any]]:
    """Return the library's kernels, and what the launchers choose on its architectures."""
    kernels = cuda_report().read_code(plugin_library())
    architectures = {sm for _, sm in kernels}
    printed = subprocess.run([built("cuda/hsm_dump_launches")], capture_output=True, text=True, check=True).stdout
    return kernels, [row for row in map(json.loads, printed.splitlines()) if row["sm"] in architectures]


@needs("c++filt")
def test_nothing_spills_and_all_that_is_launched_is_there() -> None:
    kernels, launches = _kernels_and_launches()
    assert kernels
    assert launches
    assert not cuda_report().faults(kernels, launches)


@pytest.mark.slow  # the report is written for every architecture, which takes longer to compile than all tests
@needs("c++filt")
def test_the_report_is_current() -> None:
    tool = cuda_report()
    kernels, launches = _kernels_and_launches()
    document = REPORT.read_text(encoding="utf-8")
    if tool.compiler() not in document:
        pytest.skip(f"the report was written with another compiler than {tool.compiler()}")
    shown = [row for row in tool.kernel_rows(kernels, tool.largest_launches(launches)) if row[1] in document]
    stale = [row for row in shown if "| " + " | ".join(row) + " |" not in document]
    assert not stale, "run `make cuda-report`"
