"""The process of one runtime: loads the model, then runs and times what it is asked to (see `child_process`).

load(job)        the model
prepare(index)   warms up with the index-th shape
turn(index)      median time of the calls of one turn, in seconds
memory(index)    "peak" and "extra" bytes since that shape was prepared
"""

from __future__ import annotations

import statistics
from typing import Any

from ..child_process import Channel
from ..process_memory import SELF, forget_peak, peak_bytes, resident_bytes
from .protocol import TURN_SECONDS, WARM_UP_CALLS, Job

REQUESTS = ("prepare", "turn", "memory")


class Worker:
    """One runtime with its model loaded.

    Args:
        job: what to load.
    """

    def __init__(self, job: Job) -> None:
        from ..onnx_model.model_file import open_model
        from ..runtimes import get
        from ..runtimes.runtime import RunContext
        from ..torch_model.torch_source import open_source
        from ..validation.cases import shaped_cases

        file = open_model(job.model)
        runtime = get(job.runtime)
        # Only where it is needed: it imports torch, whose memory would then count for every runtime.
        source = open_source(job.against) if job.against and runtime.needs_source else None
        self._feeds = [case.feed for case in shaped_cases(file, job.shapes)[: len(job.shapes)]]
        context = RunContext(file.model, file.path.parent, file.precision, source.load if source else None, timed=True)
        self._runner = runtime.runner(context)
        self._runner.activate()
        # A runner may run the model in a process of its own, whose memory then counts.
        self._process = getattr(self._runner, "pid", SELF)
        self._loaded = resident_bytes(self._process)

    def prepare(self, index: int) -> None:
        """Warm up with one shape."""
        forget_peak(self._process)
        for _ in range(WARM_UP_CALLS):
            self._call(index)

    def turn(self, index: int) -> float:
        """Return the median time of a few calls; the first call, which finds cold caches, does not count."""
        if hasattr(self._runner, "time_calls"):  # between its calls there would be more than calls
            return float(self._runner.time_calls(self._feeds[index], TURN_SECONDS))
        if self._call(index) > TURN_SECONDS:
            return self._call(index)
        seconds = [self._call(index)]
        while sum(seconds) < TURN_SECONDS:
            seconds.append(self._call(index))
        return statistics.median(seconds)

    def memory(self, _index: int) -> dict[str, int]:
        """Return the peak of resident memory since the last `prepare`, and what of it the runs took."""
        peak = peak_bytes(self._process)
        return {"peak": peak, "extra": max(peak - self._loaded, 0)}

    def close(self) -> None:
        """Release what the runtime holds: files, and processes of its own."""
        self._runner.deactivate()

    def _call(self, index: int) -> float:
        self._runner.infer(self._feeds[index], check_inputs=False)
        return float(self._runner.last_inference_time())


def main() -> None:
    """Serve on stdin and stdout; whatever libraries print goes to stderr."""
    channel = Channel()
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL + 1
    workers: list[Worker] = []

    def load(job: dict[str, Any]) -> None:
        workers.append(Worker(Job(**{**job, "shapes": tuple(map(tuple, job["shapes"]))})))

    requests = {name: lambda index, name=name: getattr(workers[0], name)(index) for name in REQUESTS}
    channel.serve({"load": load, **requests})
    for worker in workers:
        worker.close()


if __name__ == "__main__":
    main()
