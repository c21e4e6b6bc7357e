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

from hsm_export.building.portable.compiling import Log, RefusedError, Settings, parse, plugin_layers


def load(library: str, register: bool) -> list[str]:
    """Load the plugins: by the registry, or, as programs do that only open a library, by its registering companion."""
    registry = trt.get_plugin_registry()
    if register:
        ctypes.CDLL(library)
    else:
        registry.load_library(library)
    return [f"{c.plugin_namespace}::{c.name}@{c.plugin_version}" for c in registry.all_creators]


def attempt(builder: Any, logger: Any, case: dict[str, Any], log: Log) -> dict[str, Any]:
    """Parse one model, and build its engine when the case has a profile."""
    log.first_error = None
    path = Path(case["model"])
    settings = Settings("TensorRT-RTX")
    try:
        network, parser = parse(trt, logger, builder, path.read_bytes(), str(path), settings, log)
    except RefusedError as error:
        return {"refusal": str(error), "log": log.first_error, "plugins": []}
    outputs = map(network.get_output, range(network.num_outputs))
    result = {
        "refusal": None,
        "plugins": plugin_layers(trt, network),
        "outputs": {tensor.name: [list(tensor.shape), tensor.dtype.name] for tensor in outputs},
        "engine_bytes": 0,
    }
    if "profile" in case:
        engine = builder.build_serialized_network(network, configure(builder, network, case))
        result["engine_bytes"] = 0 if engine is None else engine.nbytes
    del parser  # it owns the weights
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
    log = Log(lambda _severity, _message: None)
    logger = log.logger(trt)
    builder = trt.Builder(logger)
    result: dict[str, Any] = {"creators": load(job["library"], job["register"])}
    result["cases"] = {name: attempt(builder, logger, case, log) for name, case in job["cases"].items()}
    Path(answer).write_text(json.dumps(result), encoding="utf-8")
    # TensorRT-RTX's destructors are not the subject.
    sys.stdout.flush()
    os._exit(0)


main(*sys.argv[1:3])
