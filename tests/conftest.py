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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a module's tests in one process, for its fixtures; skip GPU tests where there is no GPU, and say so."""
    from hsm_export.building.cuda_driver import probe

    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    reason = probe().reason if gpu_tests else None
    for item in gpu_tests if reason else ():
        item.add_marker(pytest.mark.skip(reason=f"no NVIDIA GPU on this machine: {reason}"))


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """A generator seeded by the test's own name: fresh numbers for each test, the same in each run."""
    import zlib

    name = request.node.nodeid.removesuffix(f"@{request.node.get_closest_marker('xdist_group').args[0]}")
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))
