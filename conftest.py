"""Set-up of the tests here and beside operators: one thread, so that parallel processes do not fight over cores."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tests.shared import run_folder

torch.set_num_threads(1)


def pytest_configure() -> None:
    """Make the folder that the processes of this run share before they start."""
    run_folder()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests, with the reason, where there is no GPU."""
    from hsm_export.building.cuda_driver import probe

    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    reason = probe().reason if gpu_tests else None
    for item in gpu_tests if reason else ():
        item.add_marker(pytest.mark.skip(reason=f"no NVIDIA GPU on this machine: {reason}"))


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """A generator seeded by the test's own name: fresh numbers for each test, the same in each run."""
    import zlib

    return torch.Generator().manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def reference_maths() -> Iterator[None]:
    """Have PyTorch compute operators by their reference maths: kernels are held to that, not it to them."""
    from hsm_operators import use_kernels

    with use_kernels(False):
        yield
