"""Run one model in the ONNX Runtime of whatever Python runs this file; it imports nothing of ours.

Requests and answers are those of `child_process`: "load" {"model", "threads"}, and "run" {"inputs", "outputs"} (.npz
files), which returns the seconds of the call. Python 3.8 is enough.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
session: Any = None


def load(job: dict[str, Any]) -> str:
    """Open the model; return the version of ONNX Runtime."""
    global session
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = job["threads"]
    session = onnxruntime.InferenceSession(job["model"], sess_options=options, providers=["CPUExecutionProvider"])
    return str(onnxruntime.__version__)


def run(job: dict[str, Any]) -> float:
    """Run it on the arrays of a file and write its outputs to another."""
    import numpy

    names = {
        "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(bool)": "bool",
    }  # fmt: skip
    types = {value.name: names.get(value.type, value.type[7:-1]) for value in session.get_inputs()}
    with numpy.load(job["inputs"]) as arrays:
        feed = {name: arrays[name].astype(types[name]) for name in types if name in arrays}
    outputs = [value.name for value in session.get_outputs()]
    begun = time.perf_counter()
    results = session.run(outputs, feed)
    seconds = time.perf_counter() - begun
    numpy.savez(job["outputs"], **dict(zip(outputs, results)))  # noqa: B905 not in Python 3.9
    return seconds


def main() -> None:
    """Answer requests until there are no more."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    handlers: dict[str, Any] = {"load": load, "run": run}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"done": handlers[request["request"]](request["argument"])}
        except Exception as error:
            lines = [text.strip() for text in str(error).splitlines() if text.strip()]
            message = lines[0] if lines else type(error).__name__
            answer = {"error": {"type": "BadInputError", "message": message, "hint": None}}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
