"""`hsm-export demo`: the whole road, from trained checkpoints to validated ONNX files and engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import HsmExportError, UsageError
from .formats.result import Result

DEFAULT_MODELS = ("hsm-lm", "taylor-shift-digits", "switch-head-lm")


@dataclass(frozen=True)
class DemoRow(Result):
    """What became of one trained model.

    Attributes:
        model: its name in the zoo.
        operators: its `hsm` operators and how many nodes of each.
        parameters: number of weights.
        onnx: the exported file.
        onnx_bytes: its size.
        runtimes: the runtimes that were compared with PyTorch in float64.
        cases: number of input cases compared.
        error: largest absolute error of the ONNX runtimes against float64.
        torch_error: largest absolute error of PyTorch itself in the same precision.
        passed: whether every runtime stayed within its derived tolerance.
        engine: the TensorRT-RTX engine, or None when it was not built.
        engine_bytes: its size.
        note: why there is no engine, or empty.
        seconds: time for everything.
    """

    model: str
    operators: dict[str, int]
    parameters: int
    onnx: Path
    onnx_bytes: int
    runtimes: tuple[str, ...]
    cases: int
    error: float
    torch_error: float
    passed: bool
    engine: Path | None
    engine_bytes: int
    note: str
    seconds: float


@dataclass(frozen=True)
class DemoResult(Result):
    """All rows of the demonstration; `passed` when every model passed and every engine was built."""

    directory: Path
    precision: str
    architectures: tuple[str, ...]
    rows: tuple[DemoRow, ...]
    passed: bool


def demo(
    directory: str | Path = "demo-output",
    *,
    models: Sequence[str] = DEFAULT_MODELS,
    precision: str = "fp32",
    architectures: Sequence[str] = ("sm86",),
    engines: bool = True,
    progress: Callable[[str], None] | None = None,
) -> DemoResult:
    """Take trained zoo models from checkpoint to ONNX to a TensorRT-RTX engine, and compare the numbers.

    Args:
        directory: where the files go; made when missing.
        models: names from the zoo.
        precision: "fp32", "fp16" or "bf16".
        architectures: GPU architectures of the engines.
        engines: build engines; without TensorRT-RTX they are left out and the row says so.
        progress: called with the name of each phase.

    Raises:
        UsageError: a model is not in the zoo.
    """
    from hsm_models import zoo

    unknown = sorted(set(models) - set(zoo.names()))
    if unknown:
        raise UsageError(f"no zoo model is called {', '.join(unknown)}", f"known are {', '.join(zoo.names())}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rows = tuple(
        _row(name, directory, precision, tuple(architectures), engines, progress or (lambda _: None)) for name in models
    )
    passed = all(row.passed and (row.engine is not None or not engines) for row in rows)
    return DemoResult(directory, precision, tuple(architectures), rows, passed)


def _row(
    name: str,
    directory: Path,
    precision: str,
    architectures: tuple[str, ...],
    engines: bool,
    progress: Callable[[str], None],
) -> DemoRow:
    from collections import Counter

    from .exporting import export
    from .validation import validate

    def phase(text: str) -> None:
        progress(f"{name}: {text}")

    start = time.perf_counter()
    path = directory / f"{name}-{precision}.onnx"
    exported = export(f"zoo:{name}", output=path, precision=precision, progress=phase)
    checked = validate(path, against=f"zoo:{name}", progress=phase)
    engine, note = None, ""
    if engines:
        engine, note = _engine(path, architectures, phase)
    return DemoRow(
        model=name,
        operators=dict(Counter(exported.mixers.values())),
        parameters=exported.parameters,
        onnx=path,
        onnx_bytes=exported.bytes,
        runtimes=tuple(report.runtime for report in checked.runtimes if report.verdict in ("passed", "failed")),
        cases=len(checked.cases),
        error=checked.worst_error,
        torch_error=checked.native_error,
        passed=checked.passed,
        engine=engine,
        engine_bytes=engine.stat().st_size if engine else 0,
        note=note,
        seconds=time.perf_counter() - start,
    )


def _engine(path: Path, architectures: tuple[str, ...], phase: Callable[[str], None]) -> tuple[Path | None, str]:
    """Build the engine; a machine without TensorRT-RTX, or a refusal, is a note and not the end of the demo."""
    from .building import build

    try:
        built = build(path, path.with_suffix(".engine"), architectures=architectures, progress=phase)
    except HsmExportError as error:
        return None, error.message
    return built.engine, ""
