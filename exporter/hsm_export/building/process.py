"""Run the builder in a process of its own and turn whatever becomes of it into an answer or a clear error."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..child_process import ChildProcess, ProcessEndedError, python_command, python_environment
from ..errors import BuildRefusedError
from .portable.linking import search_path

MEMORY_HINT = "use fewer or smaller profiles, or a machine with more memory"


def run_builder(
    job: dict[str, Any],
    progress: Callable[[str], None],
    log: Callable[[str, str], None],
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Build an engine in another process.

    Args:
        job: what `hsm_export.building.worker` reads.
        progress: receives the name of each phase.
        log: receives the severity and the text of each warning and error of the builder.
        command: the program to run; the worker when None.

    Returns:
        What the worker tells of the engine.

    Raises:
        BuildRefusedError: the builder refused the network, crashed, or ran out of memory.
        MissingDependencyError: the builder's libraries do not load.
        OSError: the engine cannot be written.
    """
    phase = "loading the builder"

    def event(name: str, *values: str) -> None:
        nonlocal phase
        if name == "phase":
            (phase,) = values
            progress(phase)
        else:
            log(*values)

    command = command or python_command("hsm_export.building.worker")
    with (
        tempfile.TemporaryDirectory() as links,
        ChildProcess("the builder", command, _environment(job, Path(links))) as child,
    ):
        try:
            done: dict[str, Any] = child.ask("build", job, event=event)
        except ProcessEndedError as error:
            raise _crash(job["product"], phase, error) from error
        return done


def _environment(job: dict[str, Any], links: Path) -> dict[str, str]:
    """The worker imports what this process would, and TensorRT-RTX finds itself when it loads plugins."""
    environment = python_environment()
    if job["target"] == "tensorrt-rtx" and job.get("plugin_libraries"):
        environment.update(search_path(links, {**os.environ, **environment}))
    return environment


def _crash(product: str, phase: str, error: ProcessEndedError) -> BuildRefusedError:
    """Describe a worker that ended without an answer, as TensorRT's std::terminate and the OOM killer do."""
    if error.killed:
        return BuildRefusedError(
            f"the builder was killed while {phase}, most likely because memory ran out", MEMORY_HINT
        )
    said = f": {error.last_line}" if error.last_line else ""
    return BuildRefusedError(
        f"{product}'s builder crashed ({error.how}) while {phase}{said}",
        "try another precision or fewer profiles; the ONNX file itself still runs in ONNX Runtime",
    )
