"""Shared test set-up: one thread, so that parallel test processes do not fight over the cores."""

from __future__ import annotations

import os

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
