"""Build one engine in a process of its own: `python -m hsm_export.building.worker` reads a job from stdin.

A crash of TensorRT (it calls std::terminate on some networks) or a lack of memory then ends this process only. The job
is one line of JSON; answers are lines of JSON on stdout: `{"phase": ...}`, `{"log": [severity, text]}`, and finally
`{"error": {"kind", "message", "hint"}}` or `{"done": {...}}`. The end of stdin means that nobody waits any more.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

# What Polygraphy's loaders and the bindings of TensorRT pass around has no type stubs.
Trt = Any


class RefusedError(Exception):
    """The builder or its parser refused the network; `kind` names the project's error class."""

    def __init__(self, message: str, kind: str = "refused", hint: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.hint = hint


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
    log = _prepare_polygraphy(channel)
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, PostprocessConfig
    from polygraphy.exception import PolygraphyException

    channel.send(phase="parsing the network")
    builder, network, parser = _parse(job)
    channel.send(phase=f"compiling {network.num_layers} layers for {job['destination']}")
    config = CreateConfig(
        profiles=_profiles(job),
        refittable=job["refit"],
        strip_plan=job["strip_weights"],
        weight_streaming=job["weight_streaming"],
    )
    try:
        engine = EngineBytesFromNetwork(
            (builder, network, parser), PostprocessConfig(config, lambda _b, _n, c: _set_architectures(job, c))
        )()
    except PolygraphyException as error:
        raise RefusedError(f"{job['product']} could not build the network: {log.first_error or error}") from error
    channel.send(phase="writing the engine")
    Path(job["engine"]).write_bytes(memoryview(engine))
    return {"version": _trt().__version__, "peak_memory_bytes": _peak_memory(), **_tensors(network)}


def _prepare_polygraphy(channel: Channel) -> Log:
    """Make Polygraphy use our log, which the waiting process reads, instead of the terminal."""
    from polygraphy.backend.trt import util as trt_util
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    log = Log(channel)
    trt_util.TRT_LOGGER = log.logger()
    return log


def _trt() -> Trt:
    """Return tensorrt_rtx or tensorrt, whichever the environment made Polygraphy choose."""
    import importlib

    from polygraphy import config

    return importlib.import_module("tensorrt_rtx" if config.USE_TENSORRT_RTX else "tensorrt")


class Log:
    """TensorRT's messages: warnings and errors are passed on; the first error is kept."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.first_error: str | None = None

    def logger(self) -> Trt:
        """Return a TensorRT logger that writes here."""
        trt = _trt()
        log = self

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Trt, message: str) -> None:
                log.write(severity.name.lower(), message)

        return Logger()

    def write(self, severity: str, message: str) -> None:
        if severity in ("error", "internal_error"):
            self.first_error = self.first_error or message.strip()
        if severity not in ("info", "verbose"):
            self._channel.send(log=[severity, message.strip()])


def _parse(job: dict[str, Any]) -> tuple[Trt, Trt, Trt]:
    """Parse the model, function bodies inlined, so that no plugin is needed; external data is read by the parser.

    Polygraphy's own ONNX loaders take either bytes or a path, but inlined bytes with external data need both.
    """
    import onnx
    from polygraphy.backend.trt import CreateNetwork
    from polygraphy.backend.trt.util import get_trt_logger

    from .inlining import inline_named

    trt = _trt()
    model = inline_named(onnx.load(job["model"], load_external_data=False))
    builder, network = CreateNetwork(strongly_typed=hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"))()
    parser = trt.OnnxParser(network, get_trt_logger())
    parsed = parser.parse(model.SerializeToString(), job["model"])
    if not parsed or parser.num_errors:
        raise RefusedError(_explain(job, [parser.get_error(index) for index in range(parser.num_errors)]))
    return builder, network, parser


def _explain(job: dict[str, Any], errors: list[Trt]) -> str:
    first = f"{job['product']}'s parser does not take the network"
    if not errors:
        return first
    error = errors[0]
    where = error.node_name() or f"number {error.node()}"
    more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
    return f"{first}: node {where}, operator {error.node_operator() or 'unknown'}: {error.desc().strip()}{more}"


def _profiles(job: dict[str, Any]) -> list[Trt]:
    from polygraphy.backend.trt import Profile

    profiles = []
    for shapes in job["profiles"]:
        profile = Profile()
        for name, (smallest, expected, largest) in shapes.items():
            profile.add(name, tuple(smallest), tuple(expected), tuple(largest))
        profiles.append(profile)
    return profiles


def _set_architectures(job: dict[str, Any], config: Trt) -> None:
    """Aim the build at architectures instead of at the GPU of this machine, which need not be there."""
    if not job["architectures"]:
        return
    known = _trt().ComputeCapability.__members__
    config.num_compute_capabilities = len(job["architectures"])
    for index, name in enumerate(job["architectures"]):
        if name.upper() not in known:
            raise RefusedError(
                f"{job['product']} {_trt().__version__} does not build for {name}", hint="install a newer one"
            )
        config.set_compute_capability(known[name.upper()], index)


def _tensors(network: Trt) -> dict[str, Any]:
    """What the engine binds: names and element types as TensorRT calls them, such as "int64" and "float"."""
    return {
        "inputs": {
            tensor.name: tensor.dtype.name.lower() for tensor in map(network.get_input, range(network.num_inputs))
        },
        "outputs": {
            tensor.name: tensor.dtype.name.lower() for tensor in map(network.get_output, range(network.num_outputs))
        },
        "layers": network.num_layers,
    }


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
