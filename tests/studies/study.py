"""What studies share: cases run in processes of their own with a time limit, and are recorded as they end."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnx import TensorProto, helper

from hsm_export.diffing import DiffOptions, diff
from hsm_export.errors import HsmExportError

Record = dict[str, Any]
SECONDS = 600  # of a case; machines that are busy need them
LAYERS = DiffOptions(layers=True, generate=0, max_seconds=SECONDS / 2)
# How a comparison of a file ended.
PASSED, ALARM, UNJUDGED, REFUSED, INTERNAL, HUNG = "passed", "alarm", "not judged", "refused", "internal error", "hung"


def compared(
    path: Path, runtimes: Sequence[str] = ("ort",), *, options: DiffOptions = LAYERS, inputs: Any = None, **more: Any
) -> Record:
    """Return how a comparison of a file ended, and what it said."""
    start = time.process_time()
    try:
        result = diff(path, list(runtimes), inputs=inputs, options=options, **more)
    except HsmExportError as error:
        return {"end": REFUSED, "said": error.message, "seconds": time.process_time() - start}
    except Exception:
        return {"end": INTERNAL, "said": traceback.format_exc()[-2000:], "seconds": time.process_time() - start}
    culprits = [item for item in result.culprits if item.runtime in runtimes]
    parts = any(item.verdict == "differs" for item in result.runtimes)
    end = PASSED if result.passed else ALARM if parts or result.violated else UNJUDGED
    return {
        "end": end,
        "said": result.summary,
        "nodes": [item.layer.node for item in culprits],
        "tensors": [item.layer.tensor for item in culprits],
        "words": [item.word for item in culprits],
        "layers": len({item.index for report in result.runtimes for item in report.layers}),
        "seconds": round(time.process_time() - start, 2),
    }


def isolated(examine: Callable[[], Record], seconds: float = SECONDS) -> Record:
    """Return what a function returns that runs in a child process; a crash and a hang are records too."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            record = examine()
        except BaseException:
            record = {"end": INTERNAL, "said": traceback.format_exc()[-2000:]}
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(record, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        content = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if content:
        found: Record = pickle.loads(content)
        return found
    return {"end": HUNG if code == -signal.SIGALRM else INTERNAL, "said": f"the process ended with {code}"}


def warm_up() -> None:
    """Compare a tiny file in this process: what that imports, child processes then have already."""
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), ir_version=9)
    model.opset_import[0].version = 18
    with TemporaryDirectory(prefix="hsm-study-") as folder:
        onnx.save(model, str(Path(folder) / "m.onnx"))
        assert compared(Path(folder) / "m.onnx")["end"] == PASSED


def read(path: Path) -> list[Record]:
    """Return the records of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run(
    out: Path,
    cases: Iterable[tuple[str, Callable[[], Record]]],
    until: float = float("inf"),
    seconds: float = SECONDS,
) -> list[Record]:
    """Examine the cases that are not recorded yet, and return all records of them.

    Args:
        out: JSON lines, one a case.
        cases: names, and what examines each.
        until: seconds after which no further case is started.
        seconds: that a case may take.
    """
    start = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    known = {record["case"]: record for record in read(out)}
    warm_up()
    found = []
    with out.open("a", encoding="utf-8") as log:
        for name, examine in cases:
            if name not in known and time.monotonic() - start < until:
                known[name] = {"case": name, **isolated(examine, seconds)}
                log.write(json.dumps(known[name]) + "\n")
                log.flush()
                if known[name]["end"] != PASSED:
                    print(
                        f"{name}: {known[name]['end']}: {str(known[name]['said'])[-300:]}", file=sys.stderr, flush=True
                    )
            if name in known:
                found.append(known[name])
    return found


def arguments(description: str | None, out: str, **defaults: int) -> argparse.Namespace:
    """Parse what every study takes: where records go, when to stop, and its own numbers."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/studies") / out, help="records; what is in it is done")
    parser.add_argument("--until", type=float, default=float("inf"), help="start no case after so many seconds")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def counted(records: Sequence[Record], **more: Any) -> dict[str, Any]:
    """Count how cases ended."""
    return {"cases": len(records), **Counter(record["end"] for record in records), **more}


def without_layers(options: DiffOptions = LAYERS) -> DiffOptions:
    """Return options that look at layers only where outputs differ."""
    return replace(options, layers=None)
