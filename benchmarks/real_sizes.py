"""Prompts and decoding of models of 100 and 250 M parameters, in float32, int8 and int4, beside other runtimes.

The weights are random: speed does not depend on them, and losses are for docs/quantising.md. Each contestant has a
process of its own; they take turns, and the least time of each counts. What was measured is kept in
build/benchmarks/real_sizes: a run that was interrupted goes on, and without that folder everything is measured anew.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from real_sizes_files import Files, prepare

from hsm_export.child_process import ChildProcess, python_environment
from hsm_export.errors import HsmExportError
from hsm_models import HSMConfig, LayerConfig, MLPConfig, ModelConfig
from hsm_models.mixers import SoftmaxConfig, SwitchHeadConfig, TaylorShiftConfig
from hsm_models.parts import MixerConfig

FOLDER = common.RESULTS / "real_sizes"
PROMPT, STEPS, TURNS = 512, 8, 4
VOCABULARY = 8192
FLOAT, FASTEST = "fp32", "int4"
# Decoding in int4 over float32, by the model's width.
BOUNDS = {1024: 3.0, 2048: 4.0}


def mixers(width: int) -> dict[str, tuple[MixerConfig, int]]:
    """Return each family's mixer, and the number of layers that makes about 100 M (width 1024) or 250 M parameters."""
    narrow = width == 1024
    return {
        "HSM": (HSMConfig(shifts=(1, 2, 4, 8)), 11 if narrow else 7),
        "TaylorShift": (
            TaylorShiftConfig(heads=width // 64, head_dim=16, value_dim=64, causal=True),
            8 if narrow else 5,
        ),
        "softmax": (SoftmaxConfig(heads=width // 64), 7 if narrow else 5),
        "SwitchHead": (SwitchHeadConfig(heads=8, head_dim=width // 16, experts=4, active=2), 7 if narrow else 4),
    }


def config_of(family: str, width: int) -> ModelConfig:
    """Return a model's configuration."""
    mixer, layers = mixers(width)[family]
    layer = LayerConfig(mixer, MLPConfig(4 * width))
    return ModelConfig("language_model", width, (layer,) * layers, vocab_size=VOCABULARY, tie_embeddings=True)


def main() -> None:
    """Measure every family at both widths, or go on where an earlier run was interrupted."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    folder = FOLDER / "quick" if quick else FOLDER
    if quick:
        shutil.rmtree(folder, ignore_errors=True)
    for width in (256,) if quick else (2048, 1024):
        for family in ("HSM",) if quick else mixers(1024):
            for row in known(folder, family, width):
                report.row(**row)
            judge(report, family, width)
            report.write()
    report.finish()


def known(folder: Path, family: str, width: int) -> list[dict[str, Any]]:
    """Return the rows of one model; they are measured once for each number of threads."""
    path = folder / f"{family}-{width}-{common.THREADS}.json"
    if not path.exists():
        config = config_of(family, width) if width > 256 else _tiny()
        rows = measure(prepare(config, folder / f"{family}-{width}"), family, width)
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    rows = json.loads(path.read_text(encoding="utf-8"))
    return list(rows)


def _tiny() -> ModelConfig:
    layers = (LayerConfig(HSMConfig(shifts=(1, 2)), MLPConfig(512)),) * 2
    return ModelConfig("language_model", 256, layers, vocab_size=512, tie_embeddings=True)


def judge(report: common.Report, family: str, width: int) -> None:
    """Claim what decoding in few bits gains."""
    rows = {row["runtime"]: row for row in report.rows if (row["family"], row["width"]) == (family, width)}
    if {FLOAT, FASTEST} <= rows.keys():
        ratio = rows[FASTEST]["decoding_tokens_a_second"] / rows[FLOAT]["decoding_tokens_a_second"]
        report.at_least(f"{family}, D = {width}: decoding in int4 over float32", ratio, BOUNDS.get(width, 1.0))


def measure(files: Files, family: str, width: int) -> list[dict[str, Any]]:
    """Check, then time every contestant of one model in turns."""
    memory = torch.ones(1 << 20 if width == 256 else 1 << 26)
    with started(files) as contestants:
        workers = {name: worker for name, (worker, _) in contestants.items()}
        times: dict[str, dict[str, float]] = {name: {} for name in workers}
        read = float("inf")
        for turn in range(TURNS):
            names = list(workers)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                found = workers[name].ask("turn", {"prompt": PROMPT, "steps": STEPS})
                times[name] = {key: min(value, times[name].get(key, value)) for key, value in found.items()}
            start = time.perf_counter()
            memory.sum()
            read = min(read, time.perf_counter() - start)
        rate = memory.nbytes / read
    return [
        {
            "family": family,
            "width": width,
            "parameters_M": files.parameters / 1e6,
            "runtime": name,
            "prompt_tokens_a_second": PROMPT / times[name]["prompt"],
            "decoding_tokens_a_second": 1 / times[name]["step"],
            "decoding_over_fp32": times[FLOAT]["step"] / times[name]["step"],
            "prompt_over_fp32": times[FLOAT]["prompt"] / times[name]["prompt"],
            "share_of_bandwidth": files.bytes_read(name) / times[name]["step"] / rate,
            "file_MB": files.size(name) / 1e6,
            **facts,
        }
        for name, (_, facts) in contestants.items()
    ]


@contextmanager
def started(files: Files) -> Iterator[dict[str, tuple[ChildProcess, dict[str, float]]]]:
    """Start every contestant that works here, with what loading and the check of its numbers came to."""
    with ExitStack() as stack:
        contestants: dict[str, tuple[ChildProcess, dict[str, float]]] = {}
        for name, job in files.jobs().items():
            worker = stack.enter_context(_process(name))
            try:
                seconds = worker.ask("load", {**job, "capacity": PROMPT + TURNS * STEPS + 64})
            except HsmExportError as error:
                print(f"  {name} is left out: {error}", file=sys.stderr)
                continue
            found = worker.ask("check", files.tokens.tolist())
            error = files.check(name, np.asarray(found["logits"], np.float32))
            contestants[name] = worker, {"memory_MB": found["resident"] / 1e6, "load_s": seconds, "error": error}
        yield contestants


def _process(name: str) -> ChildProcess:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(common.THREADS))
    spinning = {key: os.environ[key] for key in ("GOMP_SPINCOUNT", "OPENBLAS_THREAD_TIMEOUT", "HSM_TORCH_KERNELS")}
    spinning["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of processes, which would outlive the worker
    command = [sys.executable, str(Path(__file__).with_name("real_sizes_worker.py"))]
    return ChildProcess(name, command, {**python_environment(), **threads, **spinning})


if __name__ == "__main__":
    main()
