"""Does `diff` raise false alarms, and does it find what is planted?

Random healthy models must pass, layer by layer. Then one node's result is moved by 8 times what is allowed at one
element, or by noise of that size everywhere, in the runtime alone; the diff must be failed, and must name that node.

Examples:
    python -m tests.studies.diff_thresholds --count 200 --out build/studies/diff.jsonl    hours on two busy cores
    python -m tests.studies.diff_thresholds --seed 1 --count 16 --out build/studies/one.jsonl
    python -m tests.studies.diff_thresholds --summary build/studies/*.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tests.studies.planting import Fault, planted
from tests.studies.random_models import Drawn, Models

from hsm_export.diffing import DiffOptions, diff
from hsm_export.diffing.results import DiffResult, LayerDiff

FACTOR = 8.0  # what is planted, in thresholds
RUNTIMES = ("ort", "ort-fused")
REQUIRED = 0.95  # of the planted faults
_DRAWS = 50
OPTIONS = DiffOptions(layers=True, generate=0)


def examine(model: Drawn, seed: int) -> dict[str, Any]:
    """Compare a healthy model, then twins with one fault each; return what is recorded of them."""
    start = time.monotonic()
    healthy = diff(model.path, RUNTIMES, against=model.source, inputs=model.feed, options=OPTIONS)
    layers = [item for report in healthy.runtimes for item in report.layers]
    nearest = max(layers, key=lambda item: item.severity)
    record = {
        "kind": model.kind,
        "precision": model.precision,
        "source": model.source is not None,
        "shapes": {name: list(array.shape) for name, array in model.feed.items() if "." not in name},
        "layers": len({item.index for item in layers}),
        "passed": healthy.passed,
        "alarm": None if healthy.passed else healthy.summary,
        "severity": nearest.severity,
        "nearest": f"{nearest.runtime} {nearest.operator} {nearest.node}",
        "healthy_seconds": round(time.monotonic() - start, 1),
    }
    record["twins"] = twins(model, healthy, random.Random(seed))
    record["seconds"] = round(time.monotonic() - start, 1)
    return record


def twins(model: Drawn, healthy: DiffResult, rng: random.Random) -> list[dict[str, Any]]:
    """Give each runtime a fault of its own, and say what became of it."""
    chosen = {}
    for report in healthy.runtimes:
        if report.runtime in RUNTIMES:
            chosen[report.runtime] = _choose(report.layers, model, rng)
    with planted({name: fault for name, (_, fault, _, _) in chosen.items()}):
        result = diff(model.path, RUNTIMES, against=model.source, inputs=model.feed, options=OPTIONS)
    found = []
    for report in (item for item in result.runtimes if item.runtime in RUNTIMES):
        layer, fault, style, redrawn = chosen[report.runtime]
        assert layer.threshold is not None
        culprit = report.culprit
        found.append(
            {
                "runtime": report.runtime,
                "node": layer.node,
                "operator": layer.operator,
                "style": style,
                "planted": float(np.abs(fault.pattern).max()),
                "by": layer.threshold.source,
                "redrawn": redrawn,
                "flagged": report.verdict == "differs" and not result.passed,
                "located": culprit is not None and culprit.layer.index == layer.index,
                "named": None if culprit is None else f"{culprit.layer.operator} {culprit.layer.node}",
            }
        )
    return found


def _choose(layers: Sequence[LayerDiff], model: Drawn, rng: random.Random) -> tuple[LayerDiff, Fault, str, int]:
    """Draw a layer whose threshold can be exceeded, and what is added to its result; count what was drawn in vain."""
    for redrawn in range(_DRAWS):
        layer = rng.choice(layers)
        if layer.own is None or layer.threshold is None or not 0 < layer.threshold.value < np.inf:
            continue
        style = rng.choice(["element", "noise"])
        pattern = _pattern(layer, model.feed.get("lengths"), style, rng)
        if np.isfinite(layer.errors.scale):
            return layer, Fault(layer.tensor, layer.dtype, pattern), style, redrawn
    raise RuntimeError("no layer has a threshold")


def _pattern(layer: LayerDiff, lengths: Any, style: str, rng: random.Random) -> Any:
    assert layer.threshold is not None
    size = FACTOR * layer.threshold.value
    pattern = np.zeros(layer.shape)
    if style == "noise":
        pattern += np.random.default_rng(rng.randrange(1 << 30)).uniform(-size, size, layer.shape)
    place = tuple(rng.randrange(extent) for extent in layer.shape)
    if lengths is not None and len(place) > 2 and layer.shape[0] == len(lengths):
        # Tokens beyond a row's length mean nothing, and are not looked at.
        place = (place[0], min(place[1], max(0, int(lengths[place[0]]) - 1)), *place[2:])
    pattern[place] = rng.choice([-size, size])
    return pattern


def summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count false alarms and what was found."""
    broken = [record for record in records if "error" in record]
    records = [record for record in records if "error" not in record]
    faults = [item for record in records for item in record["twins"]]
    return {
        "models": len(records),
        "errors": len(broken),
        "layers": sum(record["layers"] for record in records),
        "false_alarms": sum(not record["passed"] for record in records),
        "twins": len(faults),
        "flagged": sum(item["flagged"] for item in faults),
        "located": sum(item["flagged"] and item["located"] for item in faults),
        "redrawn": sum(item["redrawn"] for item in faults),
        "largest_severity": max((record["severity"] for record in records if record["passed"]), default=0.0),
    }


def passed(counts: dict[str, Any]) -> bool:
    """Whether no alarm was false, and enough of what was planted was found and located."""
    return not counts["errors"] and not counts["false_alarms"] and counts["located"] >= REQUIRED * counts["twins"] > 0


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the records of finished models."""
    return [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not recorded yet; return 0 when the counts are as they must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first model")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path, help="JSON lines; models that are in it are not run again")
    parser.add_argument("--until", type=float, default=float("inf"), help="start no model after so many seconds")
    parser.add_argument("--summary", type=Path, nargs="+", help="run nothing: count what these files hold")
    options = parser.parse_args(arguments)
    if options.summary is None:
        if options.out is None:
            parser.error("--out says where the results go")
        run(options.seed, range(options.first, options.first + options.count), options.out, options.until)
    counts = summary(read(options.summary or [options.out]))
    print(json.dumps(counts, indent=2))
    return 0 if passed(counts) else 1


def run(seed: int, numbers: range, out: Path, until: float) -> None:
    """Examine models one after the other, and record each when it is finished."""
    start = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    known = {(record["seed"], record["number"]) for record in read([out])}
    with TemporaryDirectory(prefix="hsm-study-") as folder, out.open("a", encoding="utf-8") as log:
        models = Models(Path(folder), seed)
        for number in numbers:
            if (seed, number) in known or time.monotonic() - start > until:
                continue
            record = {"seed": seed, "number": number}
            try:
                record |= examine(models.draw(number), number)
            except Exception as error:  # recorded, and no reason to stop before the other models
                traceback.print_exc()
                record["error"] = repr(error)
            log.write(json.dumps(record) + "\n")
            log.flush()
            if "error" in record:
                continue
            state = "passed" if record["passed"] else f"FALSE ALARM: {record['alarm']}"
            missed = [item for item in record["twins"] if not (item["flagged"] and item["located"])]
            print(number, record["kind"], record["precision"], state, record["seconds"], missed or "", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
