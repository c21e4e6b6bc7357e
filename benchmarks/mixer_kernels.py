"""The kernels beside two foreign mixers of examples/mixers against their own ONNX bodies, in ONNX Runtime.

Both are derived or built here from the mixers' files: the body is the loop over tokens that follows from the step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
import torch

import hsm_export
import onnxruntime as ort
from hsm_export.exporting.bodies import one_node_model
from hsm_export.operators.building import build_operators
from hsm_export.operators.testing import subject_of
from hsm_operators import Operator, find
from hsm_operators.testing import Subject
from hsm_operators.testing.implementations import run_torch

MIXERS = common.ROOT / "examples" / "mixers"
LIBRARIES = common.RESULTS / "libraries"
# The file, the operator, and sizes as in models of 1 to 2 billion parameters: Griffin's and LFM2's.
OPERATORS = {
    "rg_lru": ("RGLRU", {"D": 2560}),
    "short_convolution": ("GatedShortConvolution", {"D": 2048, "K": 3, "R": 2}),
}
QUICK = {"D": 24, "K": 3, "R": 2}
CALLS = ((1, 2048), (1, 256), (8, 1), (1, 1))
BOUND = 3.0


def main() -> None:
    """Check the numbers of both, then let them take turns."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    for file, (name, sizes) in OPERATORS.items():
        source = MIXERS / f"{file}.py"
        hsm_export.load_operators(str(source))
        operator = find("acme", name)
        assert operator is not None
        library = build_operators(source, LIBRARIES, only=["onnxruntime"]).libraries[0].path
        fixed = {key: QUICK[key] if quick else size for key, size in sizes.items()}
        model = one_node_model(operator, {}, "fp32", fixed)
        for batch, length in ((2, 16), (2, 1)) if quick else CALLS:
            compare(report, operator, model, library, {**fixed, "B": batch, "T": length})
    report.finish()


def compare(
    report: common.Report, operator: Operator, model: onnx.ModelProto, library: Path, sizes: dict[str, int]
) -> None:
    """Time one call with the kernel and with the body."""
    subject = subject_of(operator)
    lengths = {"lengths": [sizes["T"]] * sizes["B"]}
    drawn = subject.drawn(sizes, {}, lengths, np.random.default_rng(0))
    feed = {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in drawn.items()}
    reference, native = expected(subject, feed)
    calls = {"kernel": Call(model, feed, reference, library), "body": Call(model, feed, reference, None)}
    errors = {
        way: common.check(f"{operator.name}, {way}", call.result(), reference, native) for way, call in calls.items()
    }
    times = common.take_turns(calls, 2 if report.quick else 11)
    ratio = times["body"].median / times["kernel"].median
    what = f"{sizes['B']} × {sizes['T']} tokens"
    ways: dict[str, Any] = {}
    for way, spread in times.items():
        ways |= {f"{way}_ms": spread.median * 1e3, f"{way}_error": errors[way]}
    report.row(operator=operator.name, width=sizes["D"], what=what, **ways, ratio=ratio)
    report.at_least(f"{operator.name}, {what}: body over kernel", ratio, BOUND)


def expected(subject: Subject, feed: dict[str, common.Array]) -> tuple[common.Array, common.Array]:
    """Return the first output in float64, and PyTorch's in float32."""
    wide = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in feed.items()}
    with torch.inference_mode():
        native = run_torch(subject.operator, wide, {}, "fp32")[0]
    return subject.truth(wide, {})[0], native


class Call:
    """A session of one node, its buffers bound once; with the kernel where there is a library."""

    def __init__(
        self, model: onnx.ModelProto, feed: dict[str, common.Array], like: common.Array, library: Path | None
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = common.THREADS
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if library is not None:
            options.register_custom_ops_library(str(library))
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        for name, array in feed.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        first, *others = [value.name for value in model.graph.output]
        self._output = ort.OrtValue.ortvalue_from_shape_and_type(like.shape, np.float32)
        self._binding.bind_ortvalue_output(first, self._output)
        for name in others:
            self._binding.bind_output(name)

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def result(self) -> common.Array:
        """Run, and return the first output."""
        self()
        array: common.Array = self._output.numpy()
        return array


if __name__ == "__main__":
    main()
