"""Set-up of the tests here and beside operators: one thread, so that parallel processes do not fight over cores."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tests.checking_process import share_checking_process
from tests.shared import begin_run

torch.set_num_threads(1)


def pytest_configure() -> None:
    """Prepare the run before its processes start."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        begin_run()
    share_checking_process()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A job in the background, as of `make test &`, ignores Ctrl-C, and so would the programs that tests interrupt.
        # This process still does; those that it starts do as they please, which an ignored signal would not let them.
        signal.signal(signal.SIGINT, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests, with the reason, where there is no GPU."""
    from hsm_export.building.cuda_driver import probe

    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    reason = probe().reason if gpu_tests else None
    for item in gpu_tests if reason else ():
        item.add_marker(pytest.mark.skip(reason=f"no NVIDIA GPU on this machine: {reason}"))


# Seconds after which a test hangs, however busy the machine is; subprocesses that it waits for end with it.
HANGS, SLOW_HANGS = 30 * 60, 3 * 60 * 60


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End a test that hangs, set-up included."""

    def end(*_: object) -> None:
        raise TimeoutError("the test hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SLOW_HANGS if item.get_closest_marker("slow") else HANGS)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


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
