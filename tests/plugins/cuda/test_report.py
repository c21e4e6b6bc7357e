"""The CUDA report's claims, checked on the architectures that this machine's build has."""

from __future__ import annotations

import json
import subprocess

import pytest
from tests.plugins.cuda.report import cuda_report, plugin_library
from tests.plugins.native import ROOT, built, needs

REPORT = ROOT / "docs" / "cuda-report.md"


@needs("c++filt")
def test_nothing_spills_and_the_report_is_current() -> None:
    program = built("cuda/hsm_dump_launches")
    tool = cuda_report()
    kernels = tool.read_code(plugin_library())
    architectures = {sm for _, sm in kernels}
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    launches = [row for row in map(json.loads, printed.splitlines()) if row["sm"] in architectures]
    assert kernels
    assert launches
    assert not tool.faults(kernels, launches)
    document = REPORT.read_text(encoding="utf-8")
    if tool.compiler() not in document:
        pytest.skip(f"the report was written with another compiler than {tool.compiler()}")
    shown = [row for row in tool.kernel_rows(kernels, tool.largest_launches(launches)) if row[1] in document]
    stale = [row for row in shown if "| " + " | ".join(row) + " |" not in document]
    assert not stale, "run `make cuda-report`"
