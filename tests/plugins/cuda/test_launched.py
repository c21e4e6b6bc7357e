"""Every kernel variant that nvcc compiles is launched by some test under the host shim."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.plugins.cuda.report import cuda_report, plugin_library
from tests.plugins.native import built, needs


@needs("c++filt")
@pytest.mark.slow
def test_every_compiled_kernel_is_launched(tmp_path: Path) -> None:
    log = tmp_path / "launches.tsv"
    subprocess.run(
        [built("cuda/hsm_cuda_tests"), "--gtest_brief=1"], env={**os.environ, "HSM_SIMT_LOG": str(log)}, check=True
    )
    tool = cuda_report()
    launched = {tool.bare(line.split("\t")[0]) for line in log.read_text().splitlines()}
    compiled = {name for name, _ in tool.read_code(plugin_library())}
    assert compiled
    missing = compiled - launched
    assert not missing, f"no test launches {', '.join(sorted(missing))}"
