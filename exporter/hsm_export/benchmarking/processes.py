"""The worker processes of a benchmark, seen from outside: one a runtime, all alive, one at work at a time."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from ..child_process import ChildProcess, ProcessEndedError, python_command, python_environment
from ..errors import BadInputError, HsmExportError
from .protocol import Job


class WorkerProcess:
    """A process that has one runtime loaded.

    Args:
        job: what it loads.
        threads: threads that its libraries may use.
    """

    def __init__(self, job: Job, threads: int) -> None:
        self.runtime = job.runtime
        command = python_command("hsm_export.benchmarking.worker")
        self._process = ChildProcess(f"{job.runtime}: its process", command, _environment(threads))

    def ask(self, request: str, argument: Any) -> Any:
        """Send a request and return the answer.

        Raises:
            BadInputError: the runtime failed.
            HsmExportError: the process ended.
        """
        try:
            return self._process.ask(request, argument)
        except ProcessEndedError as error:
            error.hint = "most likely the memory ran out: use shorter lengths or a smaller batch"
            raise
        except HsmExportError as error:
            raise BadInputError(f"{self.runtime} cannot run the model: {error.message}", error.hint) from error

    def stop(self) -> None:
        """End the process: at the end of its requests, so that it can clean up, or by force when it is at work."""
        self._process.stop()


@contextlib.contextmanager
def worker_processes(jobs: Sequence[Job], threads: int) -> Iterator[list[WorkerProcess]]:
    """Start a process for each job, load the models, and end the processes afterwards, whatever happens."""
    workers: list[WorkerProcess] = []
    try:
        for job in jobs:
            workers.append(WorkerProcess(job, threads))
            workers[-1].ask("load", dataclasses.asdict(job))
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def _environment(threads: int) -> dict[str, str]:
    """Give every library the same threads, and the worker the modules that this process would import.

    Idle threads spin for about 1 ms in place of 10 (OpenMP) or 100 (OpenBLAS), for the sake of whose turn is next.
    """
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    spinning = {"GOMP_SPINCOUNT": "30000", "OPENBLAS_THREAD_TIMEOUT": "18"}
    return {**python_environment(), **limits, **spinning}
