"""From nothing to the first result of the C++ runtime, in fresh processes: opening, loading, the first run.

The files lie in the page cache, as they do on a machine that starts its program a second time. How many bytes are read
by calls, in place of being mapped, is counted too.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
from onnx import TensorProto

import hsm_export
from hsm_export.native import custom_ops_path, run_program_path
from hsm_export.runtimes.cpp import onnxruntime_library
from hsm_export.runtimes.cpp_bundle import write_graph_bundle
from hsm_models import HSMConfig, LayerConfig, MLPConfig, ModelConfig, zoo
from hsm_models.checkpoint import build_model, save_checkpoint

FOLDER = common.RESULTS / "cold_start"
LARGE = "random, 50 M parameters"
_PARTS = ("open_ms", "load_ms", "first_run_ms")


def main() -> None:
    """Measure every model of the zoo, and a larger one whose weights lie beside its file."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("taylor-shift-digits",) if quick else (*zoo.names(), LARGE):
        model = large_model() if name == LARGE else zoo_model(name)
        measure(report, name, model, processes=2 if quick else 11)
        report.write()
    report.finish()


def zoo_model(name: str) -> Path:
    """Export a model of the zoo."""
    return hsm_export.export(f"zoo:{name}", output=FOLDER / f"{name}.onnx").path


def large_model() -> Path:
    """Export a random language model with external data."""
    layers = tuple(LayerConfig(HSMConfig(shifts=(1, 2, 4, 8)), MLPConfig(3072)) for _ in range(10))
    config = ModelConfig("language_model", 768, layers, vocab_size=2048)
    source = FOLDER / "large.safetensors"
    save_checkpoint(build_model(config), source)
    return hsm_export.export(source, output=FOLDER / "large.onnx", external_data=True).path


def measure(report: common.Report, name: str, path: Path, processes: int) -> None:
    """Start processes with and without digests, and one whose reading is counted."""
    bundle = FOLDER / "model.hsm"
    for old in bundle.glob("*"):
        old.unlink()
    if bundle.exists():
        bundle.rmdir()
    model = onnx.load(str(path), load_external_data=False)
    write_graph_bundle(model, path.parent, bundle)
    size = sum(file.stat().st_size for file in bundle.iterdir())
    inputs = write_inputs(model)
    run = [start(bundle, inputs) for _ in range(processes)]
    trusting = [start(bundle, inputs, "--no-digests") for _ in range(processes)]
    parts = {part: statistics.median(item[part] for item in run) for part in _PARTS}
    read = read_bytes(bundle)
    report.row(
        model=name, megabytes=size / 1e6, **parts, open_without_digests_ms=median(trusting, "open_ms"),
        process_ms=median(run, "process_ms"), read_by_calls_megabytes=read / 1e6,
    )  # fmt: skip
    report.at_most(f"{name}: bytes read by calls over the bundle's size", read / size, 1.0)


def median(runs: list[Mapping[str, float]], key: str) -> float:
    """Return the median of a number over processes."""
    return statistics.median(item[key] for item in runs)


def write_inputs(model: onnx.ModelProto) -> Path:
    """Write inputs of one row and 16 tokens."""
    from safetensors.numpy import save_file

    arrays = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        names = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        shape = [1 if name == "batch" else 16 if isinstance(name, str) else name for name in names]
        fill = 16 if value.name == "lengths" else 1
        arrays[value.name] = np.full(shape, fill, np.int64 if tensor.elem_type == TensorProto.INT64 else np.float32)
    path = FOLDER / "inputs.safetensors"
    save_file(arrays, path)
    return path


def command(bundle: Path, *options: str | Path) -> list[str]:
    """Return the command line of hsm-run."""
    fixed = ("--quiet", "--backend", "onnxruntime-fused", "--kernels", custom_ops_path())
    return list(map(str, (run_program_path(), bundle, *fixed, "--threads", str(common.THREADS), *options)))


def environment() -> dict[str, str]:
    """Return the environment in which hsm-run finds ONNX Runtime."""
    return {**os.environ, "HSM_ONNXRUNTIME_LIBRARY": str(onnxruntime_library())}


def start(bundle: Path, inputs: Path, *options: str) -> dict[str, float]:
    """Run a fresh process; return what it says took how long, and how long all of it took."""
    begin = time.perf_counter()
    done = subprocess.run(
        command(bundle, "--inputs", inputs, "--json", *options), capture_output=True, text=True, env=environment()
    )
    took = (time.perf_counter() - begin) * 1e3
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr, end="")
        sys.exit(done.returncode)
    answer: dict[str, Any] = json.loads(done.stdout)
    (part,) = answer["parts"]
    return {"open_ms": answer["open_ms"], **{key: part[key] for key in _PARTS[1:]}, "process_ms": took}


def read_bytes(bundle: Path) -> int:
    """Return how many bytes a process has read by calls when its model is loaded."""
    with subprocess.Popen(
        command(bundle, "--serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        if not process.stdout.readline().startswith("ready"):
            sys.exit("error: hsm-run does not get ready")
        lines = Path(f"/proc/{process.pid}/io").read_text().splitlines()
        process.stdin.close()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


if __name__ == "__main__":
    main()
