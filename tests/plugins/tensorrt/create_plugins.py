"""A process of the tests: TensorRT's lean runtime 11 creates our plugins from serialised fields, without a GPU.

Reads a job {"library": path, "cases": {name: [operator, [[field, type, values], ...]]}}; answers for each case which
interface the plugin that was made has.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_lean as trt

TYPES = {"INT32": np.int32, "INT64": np.int64, "FLOAT32": np.float32}


def create(creator: Any, fields: list[list[Any]]) -> str | None:
    """Create one plugin; returns its interface, or None when the creator refuses.

    The rest is tested in C++: these Python bindings cannot clone a C++ plugin or read its fields.
    """
    collection = trt.PluginFieldCollection(
        [
            trt.PluginField(name, np.array(values, TYPES[kind]), trt.PluginFieldType.__members__[kind])
            for name, kind, values in fields
        ]
    )
    plugin = creator.create_plugin("layers.0.mixer", collection, trt.TensorRTPhase.RUNTIME)
    if plugin is None:
        return None
    runtime = plugin.get_capability_interface(trt.PluginCapabilityType.RUNTIME)
    return str(runtime.interface_info.kind)


def main(question: str, answer: str) -> None:
    job = json.loads(Path(question).read_text(encoding="utf-8"))
    registry = trt.get_plugin_registry()
    handle = registry.load_library(job["library"])
    ours = {creator.name: creator for creator in registry.all_creators if creator.plugin_namespace == "hsm"}
    result: dict[str, Any] = {
        "version": trt.__version__,
        "creators": {
            name: {"version": creator.plugin_version, "fields": [field.name for field in creator.field_names]}
            for name, creator in ours.items()
        },
        "cases": {name: create(ours[operator], fields) for name, (operator, fields) in job["cases"].items()},
    }
    registry.deregister_library(handle)
    result["left"] = [creator.name for creator in registry.all_creators if creator.plugin_namespace == "hsm"]
    Path(answer).write_text(json.dumps(result), encoding="utf-8")
    os._exit(0)


main(*sys.argv[1:3])
