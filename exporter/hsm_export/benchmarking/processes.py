"""The worker processes of a benchmark, seen from outside: one a runtime, all alive, one at work at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import BadInputError, HsmExportError
from .protocol import Job


class WorkerProcess:
    """A process that has one runtime loaded.

    Args:
        job: what it loads.
        threads: threads that its libraries may use.

    Raises:
        BadInputError: the runtime cannot load the model.
    """

    def __init__(self, job: Job, threads: int) -> None:
        self.runtime = job.runtime
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hsm_export.benchmarking.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(threads),
            text=True,
            encoding="utf-8",
            # Ctrl-C is for the parent, which then ends this process.
            start_new_session=True,
        )

    def ask(self, request: str, argument: Any) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            BadInputError: the runtime failed.
            HsmExportError: the process ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps({request: argument}) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            raise HsmExportError(f"{self.runtime}: its process ended {_how(self._process.wait())}", _ENDED_HINT)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BadInputError(f"{self.runtime} cannot run the model: {answer['error']}")
        return answer

    def stop(self) -> None:
        """End the process: at the end of its requests, so that it can clean up, or by force when it is at work."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def worker_processes(jobs: Sequence[Job], threads: int) -> Iterator[list[WorkerProcess]]:
    """Start a process for each job, load the models, and end the processes afterwards, whatever happens."""
    workers: list[WorkerProcess] = []
    try:
        for job in jobs:
            workers.append(WorkerProcess(job, threads))
            workers[-1].ask("job", dataclasses.asdict(job))
        yield workers
    finally:
        for worker in workers:
            worker.stop()


# How long a worker may take to end by itself.
_GRACE_SECONDS = 10.0
_ENDED_HINT = "most likely the memory ran out: use shorter lengths or a smaller batch"


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _environment(threads: int) -> dict[str, str]:
    """Give every library the same threads, and the worker the modules that this process would import.

    Idle threads spin for about 1 ms in place of 10 (OpenMP) or 100 (OpenBLAS), for the sake of whose turn is next.
    """
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    spinning = {"GOMP_SPINCOUNT": "30000", "OPENBLAS_THREAD_TIMEOUT": "18"}
    paths = [path for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **limits, **spinning}
