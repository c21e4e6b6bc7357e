"""What the benchmark and its worker processes say to each other: one JSON object a line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """What a worker process is told first.

    Attributes:
        model: path of the ONNX file.
        against: the checkpoint, for runtimes that run it.
        runtime: name of the runtime.
        shapes: (batch, length) of every input that it will be asked to run.
    """

    model: str
    against: str | None
    runtime: str
    shapes: tuple[tuple[int, int], ...]


# What one turn of a worker takes at least, so that short runs are many; long ones are one.
TURN_SECONDS = 0.03
# Calls before the first that counts: the second with another length makes torch.compile compile again.
WARM_UP_CALLS = 3
