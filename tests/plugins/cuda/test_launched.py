"""Every kernel variant that nvcc compiles is launched by some test under the host shim."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.plugins.cuda.report import cuda_report
from tests.plugins.native import built, needs

# nvcc makes a host function of this name for each kernel; what follows is the kernel's own symbol.
STUB = re.compile(r"\b__device_stub_(_Z\w+)\(")


def compiled_kernels(library: Path) -> set[str]:
    listing = subprocess.run(["nm", "--demangle", str(library)], capture_output=True, text=True, check=True).stdout
    report = cuda_report()
    return {report.bare(name) for name in report.demangled("\n".join(set(STUB.findall(listing))))}


@needs("nm")
@needs("c++filt")
@pytest.mark.slow
def test_every_compiled_kernel_is_launched(tmp_path: Path) -> None:
    library = built("../mixers/cuda/libhsm_cuda.a")
    log = tmp_path / "launches.tsv"
    subprocess.run(
        [built("cuda/hsm_cuda_tests"), "--gtest_brief=1"], env={**os.environ, "HSM_SIMT_LOG": str(log)}, check=True
    )
    bare = cuda_report().bare
    launched = {bare(line.split("\t")[0]) for line in log.read_text().splitlines()}
    compiled = compiled_kernels(library)
    assert compiled
    missing = compiled - launched
    assert not missing, f"no test launches {', '.join(sorted(missing))}"
