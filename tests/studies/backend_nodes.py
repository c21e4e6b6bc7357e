"""The study of ONNX's own cases: every node test of the `onnx` package that ONNX Runtime loads, with onnx's inputs.

    python -m tests.studies.backend_nodes [--first 0] [--count 5000] [--out FILE]

Right is: no internal error, no refusal that docs/diffing.md does not give, and no alarm where ONNX Runtime gives the
results that onnx says. Where it does not, the alarm must be raised. The last line is a JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tests.studies.study import (
    ALARM,
    HUNG,
    INTERNAL,
    PASSED,
    REFUSED,
    UNJUDGED,
    Record,
    arguments,
    compared,
    counted,
    run,
)

import onnxruntime

# Reasons that docs/diffing.md gives ("What is not compared").
DOCUMENTED = ("cannot be exchanged", "has no element type", "draws random numbers", "two results for the same inputs")
TOLERANCE = 1e-3  # of onnx's own backend tests


def cases() -> Iterator[Any]:
    """Yield the node cases of the `onnx` package."""
    from onnx.backend.test.loader import load_model_tests

    # Made, and not read from the package, which has no files of them.
    try:
        from onnx.backend.test.case.node import collect_testcases

        yield from collect_testcases(None)
    except (ImportError, TypeError):
        yield from load_model_tests(kind="node")


def loads(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime makes a session of a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def examined(case: Any) -> Record:
    """Compare a case's model on its inputs, and say whether what came of it is right."""
    model, (inputs, outputs) = case.model, case.data_sets[0]
    if not loads(model):
        return {"end": PASSED, "said": "ONNX Runtime does not load it", "loaded": False}
    feed = {
        value.name: np.asarray(item) if isinstance(item, np.generic) else item
        for value, item in zip(model.graph.input, inputs, strict=False)
    }
    with tempfile.TemporaryDirectory(prefix="hsm-study-") as folder:
        path = Path(folder) / f"{case.name}.onnx"
        onnx.save(model, str(path))
        arrays = all(isinstance(array, np.ndarray) for array in feed.values())
        record = compared(path, inputs=feed if arrays and feed else None)
    right = _right(model, feed, outputs)
    return record | {"loaded": True, "right": right}


def _right(model: onnx.ModelProto, feed: dict[str, Any], outputs: Any) -> bool:
    """Whether ONNX Runtime gives what onnx says."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    try:
        found = session.run(None, feed)
        for value, expected in zip(found, outputs, strict=True):
            np.testing.assert_allclose(np.asarray(value, np.float64), np.asarray(expected, np.float64), TOLERANCE, 1e-6)
    except Exception:
        return False
    return True


def wrong(record: Record) -> str:
    """Say why a record is none that should be; "" where it is."""
    if record["end"] in (INTERNAL, HUNG):
        return str(record["end"])
    if record["end"] in (REFUSED, UNJUDGED) and not any(reason in record["said"] for reason in DOCUMENTED):
        return "refused without a documented reason" if record["end"] == REFUSED else "not judged"
    return "false alarm" if record["end"] == ALARM and record["right"] else ""


def main() -> int:
    """Run the study and print what came of it."""
    options = arguments(__doc__, "backend_nodes.jsonl", first=0, count=100_000)
    chosen = list(cases())[options.first : options.first + options.count]

    def one(case: Any) -> Callable[[], Record]:
        return lambda: examined(case)

    records = run(options.out, [(case.name, one(case)) for case in chosen], options.until)
    bad = {record["case"]: wrong(record) for record in records if wrong(record)}
    loaded = sum(bool(record.get("loaded", True)) for record in records)
    for name, reason in bad.items():
        print(f"{name}: {reason}")
    print(json.dumps(counted(records, loaded=loaded, wrong=len(bad), of=len(chosen))))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
