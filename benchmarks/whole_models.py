"""The zoo's models in PyTorch, compiled PyTorch, OpenVINO, and ONNX Runtime with bodies and with fused kernels."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import common
import numpy as np
import onnx

import hsm_export
import onnxruntime as ort
from hsm_export.benchmarking import BenchResult
from hsm_export.native import register
from hsm_export.runtimes import get
from hsm_models import zoo

LENGTHS = (128, 512, 2048)
OTHERS = ("torch", "torch-compile", "ort", "openvino")


def main() -> None:
    """Measure every model of the zoo that has operators of ours."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    for name in ("hsm-lm",) if quick else zoo.names():
        if zoo.path(name).exists():
            measure(report, name, quick)
            report.write()
    report.finish()


def measure(report: common.Report, name: str, quick: bool) -> None:
    """Export one model, check and time it, and hold it to what Amdahl's law makes of its mixers' share."""
    folder = common.RESULTS / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    hsm_export.export(f"zoo:{name}", output=path)
    if not any(node.domain == "hsm" for node in onnx.load(path, load_external_data=False).graph.node):
        return
    others = [name for name in OTHERS if get(name).available() is None]
    runtimes = ("torch", "ort", "ort-fused") if quick else (*others, "ort-fused")
    result = hsm_export.bench(
        path,
        f"zoo:{name}",
        runtimes=runtimes,
        lengths=lengths(path, quick),
        threads=common.THREADS,
        repetitions=2 if quick else 7,
    )
    for length in result.lengths or (None,):
        judge(report, name, path, result, length)


def lengths(path: Path, quick: bool) -> list[int] | None:
    """Return the lengths to measure; None for a model whose inputs have a fixed size."""
    from hsm_export.benchmarking.api import has_length
    from hsm_export.onnx_model.model_file import open_model

    file = open_model(path)
    if not has_length(file):
        return None
    longest = int(file.config.get("max_length") or 0) or max(LENGTHS)
    return [16] if quick else sorted({min(length, longest) for length in LENGTHS})


def judge(report: common.Report, name: str, path: Path, result: BenchResult, length: int | None) -> None:
    """Record one length: times, the share of our operators, and the claim."""
    times = {item.runtime: item.seconds.median for item in result.measurements if item.length == length}
    mixers, rest = fused_profile(path, length)
    body = times["ort"]
    # What the body spends outside our operators is what the fused session spends there.
    share = max(0.0, 1 - rest / (mixers + rest) * times["ort-fused"] / body)
    best = min(times[runtime] for runtime in OTHERS if runtime in times)
    report.row(
        model=name,
        length="fixed" if length is None else length,
        **{f"{runtime}_ms": seconds * 1e3 for runtime, seconds in times.items()},
        hsm_share_of_body=share,
        hsm_share_of_fused=mixers / (mixers + rest),
        amdahl_limit=1 / max(1 - share, 1e-3),
        fused_over_body=body / times["ort-fused"],
        fused_over_best_other=best / times["ort-fused"],
        errors=" ".join(f"{item.runtime} {item.max_abs_error:.1e}" for item in result.accuracy),
    )
    where = name if length is None else f"{name}, N = {length}"
    bound = 2 if share >= 0.6 else 1
    report.at_least(f"{where}: fused over the best other runtime", best / times["ort-fused"], bound)


def fused_profile(path: Path, length: int | None) -> tuple[float, float]:
    """Return the time of our operators and of all others in a fused session, from ONNX Runtime's profile."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = common.THREADS
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(".profile"))
    register(options)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {item.name: _example(item, length or 1) for item in session.get_inputs()}
    for _ in range(20):
        session.run(None, feed)
    profile = Path(session.end_profiling())
    events = json.loads(profile.read_text(encoding="utf-8"))
    profile.unlink()
    durations: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            ours = event["args"]["op_name"] in hsm_operators()
            durations["ours" if ours else "rest"] += event["dur"]
    return durations["ours"], durations["rest"]


def hsm_operators() -> frozenset[str]:
    """Return the names of the operators of domain `hsm`."""
    from hsm_operators import OPERATORS

    return frozenset(OPERATORS)


def _example(item: ort.NodeArg, length: int) -> common.Array:
    shape = [1 if dim == "batch" else length if isinstance(dim, str) else dim for dim in item.shape]
    if item.type == "tensor(int64)":
        return np.full(shape, length if item.name == "lengths" else 1, np.int64)
    return np.ones(shape, np.float32)


if __name__ == "__main__":
    main()
