"""Build one engine in a process of its own: `python -m hsm_export.building.worker` reads a job from stdin.

A crash of TensorRT (it calls std::terminate on some networks) or a lack of memory then ends this process only. The job
is one line of JSON; answers are lines of JSON on stdout: `{"phase": ...}`, `{"log": [severity, text]}`, and finally
`{"error": {"kind", "message", "hint"}}` or `{"done": {...}}`. The end of stdin means that nobody waits any more.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from .network import network_bytes
from .portable.compiling import Log, RefusedError, Settings, compile_network


class Channel:
    """The line to the waiting process; everything else that is written to stdout goes to stderr."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._lock = threading.Lock()
        os.dup2(2, 1)

    def send(self, **message: Any) -> None:
        with self._lock:
            self._file.write(json.dumps(message) + "\n")
            self._file.flush()


def main() -> None:
    """Read a job, build, and answer."""
    channel = Channel()
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_watch, args=(Path(job["engine"]),), daemon=True).start()
    try:
        channel.send(done=build_engine(job, channel))
    except RefusedError as error:
        channel.send(error={"kind": error.kind, "message": str(error), "hint": error.hint})
    except MemoryError:
        channel.send(error={"kind": "memory", "message": "memory ran out", "hint": None})
    except ImportError as error:
        channel.send(error={"kind": "missing", "message": f"{job['product']} cannot be loaded: {error}", "hint": None})
    except OSError as error:
        channel.send(error={"kind": "os", "message": error.strerror or str(error), "errno": error.errno})
    sys.stdout.flush()
    # The libraries' own destructors are not worth waiting for, and some crash without a GPU.
    os._exit(0)


def _watch(engine: Path) -> None:
    """End the process, and what it has written, as soon as the process that waits for it is gone."""
    sys.stdin.read()
    engine.unlink(missing_ok=True)
    os._exit(1)


def build_engine(job: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Build one engine and write it to `job["engine"]`; returns what only the builder knows."""
    settings = Settings.from_dict(job)
    channel.send(phase="reading the network")
    network = network_bytes(Path(job["model"]), plugins=settings.plugin_library is not None)
    compiled = compile_network(
        importlib.import_module(job["module"]),
        network,
        job["location"],
        settings,
        lambda phase: channel.send(phase=phase),
        Log(lambda severity, text: channel.send(log=[severity, text])),
    )
    channel.send(phase="writing the engine")
    Path(job["engine"]).write_bytes(memoryview(compiled.engine))
    return {**compiled.facts(), "peak_memory_bytes": _peak_memory()}


def _peak_memory() -> int | None:
    """Return the most memory that this process held, in bytes, where the system tells."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
