"""A process of the tests: TensorRT-RTX's parser and builder on networks with our plugins, without a GPU.

Reads a job {"library": path, "register": bool, "cases": {name: case}}, where a case is {"model": path} and, to build an
engine too, {"profile": {input: [shape, shape, shape]}, "architectures": [...]}. Answers {name: result} with what the
parser and the builder made of each.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt


class Log(trt.ILogger):  # type: ignore[misc]
    """Remembers messages."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(message)


def load(library: str, register: bool) -> list[str]:
    """Load the plugins: by the registry, or, as programs do that only open a library, by its registering companion."""
    registry = trt.get_plugin_registry()
    if register:
        ctypes.CDLL(library)
    else:
        registry.load_library(library)
    return [f"{c.plugin_namespace}::{c.name}@{c.plugin_version}" for c in registry.all_creators]


def parse(builder: Any, case: dict[str, Any], log: Log) -> dict[str, Any]:
    """Parse one model, and build its engine when the case has a profile."""
    log.errors.clear()
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(case["model"])
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    result: dict[str, Any] = {
        "parsed": parsed,
        "parser_errors": [parser.get_error(index).desc() for index in range(parser.num_errors)],
        "plugins": [layer.name for layer in layers if layer.type == trt.LayerType.PLUGIN_V3],
        "outputs": {},
        "engine_bytes": 0,
    }
    if parsed:
        outputs = map(network.get_output, range(network.num_outputs))
        result["outputs"] = {tensor.name: [list(tensor.shape), tensor.dtype.name] for tensor in outputs}
    if parsed and "profile" in case:
        engine = builder.build_serialized_network(network, configure(builder, network, case))
        result["engine_bytes"] = 0 if engine is None else engine.nbytes
    result["log"] = list(log.errors)
    return result


def configure(builder: Any, network: Any, case: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(case["architectures"])
    for index, name in enumerate(case["architectures"]):
        config.set_compute_capability(trt.ComputeCapability.__members__[name], index)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        profile.set_shape(name, *map(tuple, case["profile"][name]))
    config.add_optimization_profile(profile)
    return config


def main(question: str, answer: str) -> None:
    job = json.loads(Path(question).read_text(encoding="utf-8"))
    log = Log()
    builder = trt.Builder(log)
    result: dict[str, Any] = {"creators": load(job["library"], job["register"])}
    result["cases"] = {name: parse(builder, case, log) for name, case in job["cases"].items()}
    Path(answer).write_text(json.dumps(result), encoding="utf-8")
    # TensorRT-RTX's destructors are not the subject.
    sys.stdout.flush()
    os._exit(0)


main(*sys.argv[1:3])
