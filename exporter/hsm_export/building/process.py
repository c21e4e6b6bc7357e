"""Run the builder in a process of its own and turn whatever becomes of it into an answer or a clear error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..errors import BuildRefusedError, HsmExportError, MissingDependencyError
from .portable.linking import search_path

_KINDS: dict[str, type[HsmExportError]] = {
    "refused": BuildRefusedError,
    "memory": BuildRefusedError,
    "missing": MissingDependencyError,
}
_MEMORY_HINT = "use fewer or smaller profiles, or a machine with more memory"


def run_builder(
    job: dict[str, Any],
    progress: Callable[[str], None],
    log: Callable[[str, str], None],
    command: list[str] | None = None,
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
    command = command or [sys.executable, "-P", "-m", "hsm_export.building.worker"]
    with tempfile.TemporaryFile() as noise, tempfile.TemporaryDirectory() as links:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            env=_environment(job, Path(links)),
            text=True,
            encoding="utf-8",
            # Ctrl-C is for this process; it then ends the worker, which would not listen while it compiles.
            start_new_session=True,
        )
        try:
            answer, phase = _converse(process, job, progress, log)
            process.wait()
        finally:
            _stop(process)
        return _answer(job, answer, phase, process.returncode, noise)


def _environment(job: dict[str, Any], links: Path) -> dict[str, str]:
    """The worker imports what this process would, and TensorRT-RTX finds itself when it loads plugins."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if job["target"] == "tensorrt-rtx" and job.get("plugin_library"):
        environment.update(search_path(links, environment))
    return environment


def _converse(
    process: subprocess.Popen[str],
    job: dict[str, Any],
    progress: Callable[[str], None],
    log: Callable[[str, str], None],
) -> tuple[dict[str, Any], str]:
    """Hand over the job and follow the worker; return its last answer ({} if it gave none) and its last phase."""
    assert process.stdin is not None and process.stdout is not None
    phase = "loading the builder"
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return {}, phase
    for line in process.stdout:
        message = json.loads(line)
        if "phase" in message:
            phase = message["phase"]
            progress(phase)
        elif "log" in message:
            log(*message["log"])
        else:
            return message, phase
    return {}, phase


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _answer(job: dict[str, Any], answer: dict[str, Any], phase: str, code: int, noise: IO[bytes]) -> dict[str, Any]:
    if "done" in answer:
        done = answer["done"]
        assert isinstance(done, dict)
        return done
    if "error" not in answer:
        raise _crash(job, phase, code, noise)
    error = answer["error"]
    if error["kind"] == "os":
        raise OSError(error["errno"], error["message"], job["engine"])
    hint = error["hint"] or (_MEMORY_HINT if error["kind"] == "memory" else "run again with -v for all messages")
    raise _KINDS[error["kind"]](error["message"], hint)


def _crash(job: dict[str, Any], phase: str, code: int, noise: IO[bytes]) -> BuildRefusedError:
    """Describe a worker that ended without an answer, as TensorRT's std::terminate and the OOM killer do."""
    if code == -getattr(signal, "SIGKILL", 9):
        return BuildRefusedError(
            f"the builder was killed while {phase}, most likely because memory ran out", _MEMORY_HINT
        )
    noise.seek(0)
    lines = noise.read().decode(errors="replace").strip().splitlines()
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    said = f": {lines[-1].strip()}" if lines else ""
    return BuildRefusedError(
        f"{job['product']}'s builder crashed ({how}) while {phase}{said}",
        "try another precision or fewer profiles; the ONNX file itself still runs in ONNX Runtime",
    )
