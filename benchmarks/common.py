"""What the benchmarks share: threads, single-operator sessions, accuracy checks, timing in turns, claims.

Every script checks the numbers before it times anything, times its peers in the same run with the same number of
threads (HSM_THREADS; one a core without it), prints one line a claim (`claim, measured, bound, verdict`) and writes
build/benchmarks/<script>-<threads>.json.
"""

from __future__ import annotations

import os

# All libraries get the same number of threads, which most of them only read when they are loaded.
THREADS = int(os.environ.get("HSM_THREADS", len(os.sched_getaffinity(0))))
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = str(THREADS)
# Idle threads of OpenMP and OpenBLAS spin for 10 and 100 ms by default, on the cores of whoever's turn is next. These
# make it about 1 ms, longer than any gap within a call; take_turns then waits until they sleep.
os.environ["GOMP_SPINCOUNT"] = "30000"
os.environ["OPENBLAS_THREAD_TIMEOUT"] = "18"
# PyTorch is what others are measured by: its own operators, unless a script says otherwise.
os.environ["HSM_TORCH_KERNELS"] = "0"

import argparse  # noqa: E402
import datetime  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import shutil  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from dataclasses import asdict, dataclass, field  # noqa: E402
from importlib.metadata import version  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import onnxruntime as ort  # noqa: E402
from hsm_export.benchmarking import Spread  # noqa: E402
from hsm_export.native import register  # noqa: E402
from hsm_operators import VERSION, functions_for  # noqa: E402

torch.set_num_threads(THREADS)

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "benchmarks"
PACKAGES = ("torch", "onnxruntime", "onnx", "numpy")
_TURN_SECONDS = 0.01
# A contestant whose calls take as long as this together gets no further turn, but no fewer than three.
_CONTEST_SECONDS = 0.5
_LEAST_TURNS = 3
_PAUSE_SECONDS = 0.005 if THREADS > 1 else 0.0
_OPSETS = (("", 21), ("hsm", VERSION), ("com.microsoft", 1))

Array = NDArray[Any]
Call = Callable[[], Any]


@dataclass(frozen=True)
class Claim:
    """A claim of the design, what was measured, and whether it holds."""

    claim: str
    measured: str
    bound: str
    holds: bool

    def line(self) -> str:
        """Return `claim, measured, bound, verdict`."""
        return f"{self.claim}, {self.measured}, {self.bound}, {'met' if self.holds else 'NOT met'}"


@dataclass
class Report:
    """What a script found out; `finish` prints and writes it."""

    name: str
    quick: bool
    claims: list[Claim] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def at_least(self, claim: str, ratio: float, bound: float) -> None:
        """Record a claim that a ratio reaches a bound."""
        self.claims.append(Claim(claim, f"{ratio:.3g}", f">= {bound:g}", ratio >= bound))

    def at_most(self, claim: str, ratio: float, bound: float) -> None:
        """Record a claim that a ratio stays below a bound."""
        self.claims.append(Claim(claim, f"{ratio:.3g}", f"<= {bound:g}", ratio <= bound))

    def exactly(self, claim: str, value: float, expected: float) -> None:
        """Record a claim that a value is the expected one to the last digit."""
        self.claims.append(Claim(claim, f"{value:.3g}", f"= {expected:g}", value == expected))

    def row(self, **values: Any) -> None:
        """Record a measurement; numbers are rounded to four digits."""
        rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in values.items()}
        self.rows.append(rounded)
        print("  " + "  ".join(f"{key}={value}" for key, value in rounded.items()), file=sys.stderr)

    def finish(self) -> None:
        """Print the claims on stdout and write the JSON file."""
        print("claim, measured, bound, verdict")
        for claim in self.claims:
            print(claim.line())
        self.write()

    def write(self) -> None:
        """Write the JSON file with what there is so far."""
        record = {
            "script": self.name,
            "quick": self.quick,
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "threads": THREADS,
            "versions": {name: version(name) for name in PACKAGES},
            "load": [self.load_before, os.getloadavg()[0]],
            "claims": [asdict(claim) for claim in self.claims],
            "rows": self.rows,
        }
        folder = RESULTS / "quick" if self.quick else RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}-{THREADS}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def arguments(description: str) -> bool:
    """Parse the command line of a script; returns whether it shall only try itself on tiny sizes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and few repetitions, to try the script")
    return bool(parser.parse_args().quick)


def commit() -> str:
    """Return the commit that is measured, or "unknown" outside a checkout and without git."""
    if shutil.which("git") is None:
        return "unknown"
    done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def bundle(name: str) -> Path:
    """Return the bundle of a model of the zoo, with its decoding model where it has one; made once."""
    import hsm_export

    folder = RESULTS / "bundles"
    target = folder / f"{name}.hsm"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        decode = folder / f"{name}-decode.onnx" if name.endswith("-lm") else None
        hsm_export.export(f"zoo:{name}", output=folder / f"{name}.onnx")
        if decode is not None:
            hsm_export.export(f"zoo:{name}", output=decode, decode=True)
        hsm_export.bundle(folder / f"{name}.onnx", target, decode=decode, against=f"zoo:{name}")
    return target


def take_turns(calls: Mapping[str, Call], repetitions: int) -> dict[str, Spread]:
    """Time calls against each other: they take turns, so that whatever else the machine does hits all alike.

    A turn is at least 10 ms of calls, after one that does not count where calls are short; it contributes their median.
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(repetitions):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            if turn < _LEAST_TURNS or sum(seconds[name]) < _CONTEST_SECONDS:
                time.sleep(_PAUSE_SECONDS)
                seconds[name].append(_turn(calls[name]))
    return {name: Spread.of(values) for name, values in seconds.items()}


def _turn(call: Call) -> float:
    seconds = [_seconds(call)]
    if seconds[0] < _TURN_SECONDS:
        seconds.clear()
    while sum(seconds) < _TURN_SECONDS:
        seconds.append(_seconds(call))
    return statistics.median(seconds)


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Node:
    """An ONNX graph with fixed inputs in a session, its buffers bound once, so that a call copies nothing."""

    session: Any
    binding: Any
    outputs: tuple[Any, ...]

    def __call__(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def result(self) -> Array:
        """Run, and return the first output."""
        self()
        array: Array = self.outputs[0].numpy()
        return array


def node(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, tuple[int, ...]],
    *,
    weights: Mapping[str, Array] | None = None,
    fused: bool = False,
    opset: int = 21,
) -> Node:
    """Make a session of a few nodes.

    Args:
        nodes: the nodes; those of domain `hsm` get their bodies.
        inputs: the arrays that are fed, by name.
        outputs: shapes of the float32 outputs, by name.
        weights: constant inputs.
        fused: run nodes of domain `hsm` with the fused kernels.
        opset: version of ONNX's own operators.
    """
    graph = helper.make_graph(
        list(nodes),
        "benchmark",
        [helper.make_tensor_value_info(name, _elem(array), array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid(domain, opset if domain == "" else number) for domain, number in _OPSETS]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model.functions.extend(functions_for(model))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = THREADS
    # Its threads stop spinning when a call returns: they would slow down whoever's turn is next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if fused:
        register(options)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    values = tuple(ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32) for shape in outputs.values())
    for name, value in zip(outputs, values, strict=True):
        binding.bind_ortvalue_output(name, value)
    return Node(session, binding, values)


def _elem(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def check(name: str, value: Array, reference: Array, native: Array, allowed: float = 2) -> float:
    """Return the largest error of `value` against float64; end the script when it is beyond the accuracy rule.

    Args:
        name: what is checked, for the message.
        value: the numbers to check.
        reference: the right ones, in float64.
        native: PyTorch's, in float32.
        allowed: how many times PyTorch's error is good enough: 2 for ours, more for peers.
    """
    largest = float(np.abs(reference).max())
    bound = allowed * float(np.abs(native - reference).max()) + 4 * float(np.finfo(np.float32).eps) * largest
    error = float(np.abs(value - reference).max())
    if not error <= bound:
        print(f"error: {name} is wrong: error {error:.3g}, allowed {bound:.3g}; nothing was timed", file=sys.stderr)
        sys.exit(5)
    return error


def sgemm_calls(size: int = 1024) -> tuple[dict[str, Call], float]:
    """Return square matrix products in every library at hand, and the floating-point operations of one."""
    a = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    out = np.empty_like(a)
    ta, tout = torch.from_numpy(a), torch.empty(size, size)
    matmul = helper.make_node("MatMul", ["a", "b"], ["y"])
    return {
        "sgemm torch": lambda: torch.mm(ta, ta, out=tout),
        "sgemm numpy": lambda: np.matmul(a, a, out=out),
        "sgemm ort": node([matmul], {"a": a}, {"y": (size, size)}, weights={"b": a}),
    }, 2.0 * size**3


def sgemm_rate(times: Mapping[str, Spread], flops: float) -> float:
    """Return the best library's rate in flops per second."""
    return flops / min(spread.median for name, spread in times.items() if name.startswith("sgemm"))


def random(rng: np.random.Generator, *shape: int) -> Array:
    """Return standard normal numbers in float32."""
    return rng.standard_normal(shape).astype(np.float32)
