"""Run one model in a runtime that this Python has: `python serving.py FILE CLASS`; it imports nothing of ours.

FILE holds a class as `own` describes it. Requests and answers are those of `child_process`: "describe" returns what
the class says of itself; "load" {"model", "options"} opens a file and returns remarks on it; "run" {"inputs", "order",
"outputs", "names"} reads and writes .safetensors files, whose arrays bear those names, and returns the seconds of the
call. Python 3.8 is enough.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
running: Any = None


def main(file: str, name: str) -> None:
    """Answer requests until there are no more."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    handlers: dict[str, Any] = {"describe": describe, "load": load, "run": run}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"done": handlers[request["request"]](found(file, name), request["argument"])}
        except Exception as error:
            answer = {"error": {"type": "BadInputError", "message": said(error), "hint": None}}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def found(file: str, name: str) -> Any:
    """Return the class; modules beside its file are within its reach, where the file is the user's own."""
    key = f"runtime of {file}"
    if key not in sys.modules:
        if Path(file).parent != Path(__file__).parent:
            sys.path.insert(0, str(Path(file).resolve().parent))
        spec = importlib.util.spec_from_file_location(key, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[key] = module
    return getattr(sys.modules[key], name)


def describe(kind: Any, _argument: None) -> dict[str, Any]:
    """Return how the class wants its files, its options, and the reason why it does not work here."""
    packages = getattr(kind, "packages", ())
    missing = next((package for package in packages if not importable(package)), None)
    problem = missing and f"it has no package {missing!r}; pip install {getattr(kind, 'install', missing)}"
    if problem is None and hasattr(kind, "available"):
        problem = kind.available()
    return {
        "static": bool(getattr(kind, "static", False)),
        "functions": bool(getattr(kind, "functions", False)),
        "options": dict(getattr(kind, "options", {})),
        "problem": problem,
    }


def importable(package: str) -> bool:
    """Return whether there is such a package; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def load(kind: Any, job: dict[str, Any]) -> list[str]:
    """Open the model; return what there is to know of how it runs."""
    global running
    running = None
    running = kind(Path(job["model"]), **job["options"])
    return list(getattr(running, "remarks", ()))


def run(_kind: Any, job: dict[str, Any]) -> float:
    """Run it on the arrays of a file and write its outputs to another."""
    arrays = read(job["inputs"])
    inputs = {name: arrays[name] for name in job["order"]}
    begun = time.perf_counter()
    outputs = running(inputs)
    seconds = time.perf_counter() - begun
    if isinstance(outputs, (list, tuple)):
        outputs = dict(zip(job["names"], outputs))  # noqa: B905 not in Python 3.9
    missing = ", ".join(sorted(set(job["names"]) - set(outputs)))
    if missing:
        raise ValueError(f"it returns no {missing}; it must return {', '.join(job['names'])}")
    write({name: outputs[name] for name in job["names"]}, job["outputs"])
    return seconds


def read(path: str) -> dict[str, Any]:
    """Return the arrays of a .safetensors file."""
    import numpy

    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    arrays = {}
    for name, entry in json.loads(data[8:start]).items():
        first, last = entry["data_offsets"]
        kind = numpy.dtype(TYPES[entry["dtype"]])
        array = numpy.frombuffer(data[start + first : start + last], kind)
        arrays[name] = array.reshape(entry["shape"]).copy()
    return arrays


def write(arrays: dict[str, Any], path: str) -> None:
    """Write arrays into a .safetensors file."""
    import numpy

    names = {kind: word for word, kind in TYPES.items()}
    header, blocks, offset = {}, [], 0
    for name, value in arrays.items():
        array = numpy.ascontiguousarray(value)
        shape = list(numpy.shape(value))
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": shape,
            "data_offsets": [offset, offset + array.nbytes],
        }
        blocks.append(array.tobytes())
        offset += array.nbytes
    text = json.dumps(header).encode()
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blocks))


def said(error: Exception) -> str:
    """Return the first line of an exception that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose files have the names of the packages that they import
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    main(*sys.argv[1:])
