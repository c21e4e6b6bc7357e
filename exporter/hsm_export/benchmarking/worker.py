"""The process of one runtime: loads the model, then runs and times what it is asked to.

{"job": {…}}            ->  {"ready": true}
{"prepare": index}      ->  {"ready": true}             warms up with the index-th shape
{"turn": index}         ->  {"seconds": s}              median time of the calls of one turn
{"memory": index}       ->  {"peak": p, "extra": e}     bytes, since that shape was prepared
anything that fails     ->  {"error": "…"}
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Iterator
from typing import IO, Any

from .memory import SELF, forget_peak, peak_bytes, resident_bytes
from .protocol import TURN_SECONDS, WARM_UP_CALLS, Job


class Worker:
    """One runtime with its model loaded.

    Args:
        job: what to load.
    """

    def __init__(self, job: Job) -> None:
        from ..runtimes import get
        from ..runtimes.runtime import RunContext
        from ..validation.cases import shaped_cases
        from ..validation.model_file import open_model
        from ..validation.sources import open_source

        file = open_model(job.model)
        runtime = get(job.runtime)
        # Only where it is needed: it imports torch, whose memory would then count for every runtime.
        source = open_source(job.against) if job.against and runtime.needs_source else None
        self._feeds = [case.feed for case in shaped_cases(file, job.shapes)[: len(job.shapes)]]
        context = RunContext(file.model, file.path.parent, file.precision, source.load if source else None)
        self._runner = runtime.runner(context)
        self._runner.activate()
        # A runner may run the model in a process of its own, whose memory then counts.
        self._process = getattr(self._runner, "pid", SELF)
        self._loaded = resident_bytes(self._process)

    def prepare(self, index: int) -> dict[str, Any]:
        """Warm up with one shape."""
        forget_peak(self._process)
        for _ in range(WARM_UP_CALLS):
            self._call(index)
        return {"ready": True}

    def turn(self, index: int) -> dict[str, Any]:
        """Return the median time of a few calls; the first call, which finds cold caches, does not count."""
        if hasattr(self._runner, "time_calls"):  # between its calls there would be more than calls
            return {"seconds": self._runner.time_calls(self._feeds[index], TURN_SECONDS)}
        if self._call(index) > TURN_SECONDS:
            return {"seconds": self._call(index)}
        seconds = [self._call(index)]
        while sum(seconds) < TURN_SECONDS:
            seconds.append(self._call(index))
        return {"seconds": statistics.median(seconds)}

    def memory(self, _index: int) -> dict[str, Any]:
        """Return the peak of resident memory since the last `prepare`, and what of it the runs took."""
        peak = peak_bytes(self._process)
        return {"peak": peak, "extra": max(peak - self._loaded, 0)}

    def close(self) -> None:
        """Release what the runtime holds: files, and processes of its own."""
        self._runner.deactivate()

    def _call(self, index: int) -> float:
        self._runner.infer(self._feeds[index], check_inputs=False)
        return float(self._runner.last_inference_time())


def serve(requests: Iterator[str], replies: IO[str]) -> None:
    """Answer requests until there are no more."""
    worker: Worker | None = None
    for line in requests:
        ((request, argument),) = json.loads(line).items()
        try:
            if request == "job":
                worker = Worker(Job(**{**argument, "shapes": tuple(map(tuple, argument["shapes"]))}))
                answer: dict[str, Any] = {"ready": True}
            else:
                assert worker is not None
                answer = getattr(worker, request)(argument)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        print(json.dumps(answer), file=replies, flush=True)
    if worker is not None:
        worker.close()


def main() -> None:
    """Serve on stdin and stdout; whatever libraries print goes to stderr."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL + 1
    serve(iter(sys.stdin.readline, ""), replies)


if __name__ == "__main__":
    main()
