"""Build one engine in a process of its own: `python -m hsm_export.building.worker` (see `child_process`).

A crash of TensorRT (it calls std::terminate on some networks) or a lack of memory then ends this process only. The
request "build" has a job as its argument; the events are "phase" (its name) and "log" (severity, text).
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from ..child_process import Channel
from ..errors import BuildRefusedError, MissingDependencyError
from .network import network_bytes
from .portable.compiling import Log, RefusedError, Settings, compile_network
from .process import MEMORY_HINT

_HINT = "run again with -v for all messages"


class Worker:
    """Builds engines, and forgets what it has written when nobody waits any more."""

    def __init__(self) -> None:
        self._engine: Path | None = None
        self._channel = Channel(self.abandon)

    def serve(self) -> None:
        """Answer requests until there are no more."""
        self._channel.serve({"build": self.build})

    def abandon(self) -> None:
        """Delete what is half written."""
        if self._engine is not None:
            self._engine.unlink(missing_ok=True)

    def build(self, job: dict[str, Any]) -> dict[str, Any]:
        """Build one engine and write it to `job["engine"]`; returns what only the builder knows.

        Raises:
            BuildRefusedError: the builder refused the network, or memory ran out.
            MissingDependencyError: the builder's libraries do not load.
            OSError: the engine cannot be written.
        """
        self._engine = Path(job["engine"])
        try:
            return self._build(job, self._engine)
        except RefusedError as error:
            if error.kind == "missing":
                raise MissingDependencyError(str(error), error.hint or _HINT) from error
            default = MEMORY_HINT if error.kind == "memory" else _HINT
            raise BuildRefusedError(str(error), error.hint or default) from error
        except MemoryError as error:
            raise BuildRefusedError("memory ran out", MEMORY_HINT) from error
        except ImportError as error:
            raise MissingDependencyError(f"{job['product']} cannot be loaded: {error}", _HINT) from error

    def _build(self, job: dict[str, Any], engine: Path) -> dict[str, Any]:
        settings = Settings.from_dict(job)
        self._channel.event("phase", "reading the network")
        plugins = frozenset((settings.plugin_layers or {}).values())
        network = network_bytes(Path(job["model"]), plugins=plugins)
        compiled = compile_network(
            importlib.import_module(job["module"]),
            network,
            job["location"],
            settings,
            lambda phase: self._channel.event("phase", phase),
            Log(lambda severity, text: self._channel.event("log", severity, text)),
        )
        self._channel.event("phase", "writing the engine")
        engine.write_bytes(memoryview(compiled.engine))
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
    Worker().serve()
    sys.stdout.flush()
    # The libraries' own destructors are not worth waiting for, and some crash without a GPU.
    os._exit(0)
