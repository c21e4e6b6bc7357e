"""What other people's quantisers and optimisers make of the zoo's files: a table for docs/quantising.md.

    python -m tests.studies.quantisers                  every model, as `export` and as `export --portable` write it
    python -m tests.studies.quantisers --model hsm-lm

It needs onnxconverter-common, onnxslim and onnxsim beside ONNX Runtime. Each tool gets the file, and what it wrote is
run in ONNX Runtime on random tokens. The table says how many of the products with weights it quantised, how large its
file is against the given one, and how far its logits are off: KL divergence in nats, and how often the most probable
token is the same.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("hsm-lm", "hsm-hybrid-lm", "switch-head-lm", "taylor-shift-lm", "taylor-shift-digits", "baseline-softmax")
QUANTISED = ("MatMulInteger", "MatMulNBits", "QLinearMatMul", "DynamicQuantizeMatMul")
Feed = dict[str, Any]


def main() -> None:
    """Try every tool on every file and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--folder", type=Path, help="where files are that were exported already")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print("| file | tool | products | size | KL | top-1 |\n| --- | --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        for model in options.model:
            for portable in (False, True):
                path = exported(model, portable, options.folder or Path(scratch))
                for name, tool in TOOLS.items():
                    print(row(path, name, tool, Path(scratch) / "made.onnx"), flush=True)


def exported(model: str, portable: bool, folder: Path) -> Path:
    """Return the file of a model, exported where it is missing."""
    path = folder / f"{model}-fp32{'-portable' if portable else ''}.onnx"
    if not path.exists():
        program = Path(sys.executable).with_name("hsm-export")
        command = [program, "export", f"zoo:{model}", "-o", path, *(["--portable"] if portable else [])]
        subprocess.run(command, check=True, capture_output=True)
    return path


def row(path: Path, name: str, tool: Callable[[Path, Path], None], made: Path) -> str:
    """Apply one tool to one file and return the table's row."""
    feeds = inputs(path)
    before = products(onnx.load(path))
    made.unlink(missing_ok=True)
    given = run(path, feeds)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            tool(path, made)
            got = run(made, feeds)
    except Exception as error:  # whatever the tool raises
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        # Without the place of the scratch file, which says nothing and pushes the reason out of the cell.
        reason = re.sub(r"^.*Load model from \S+ failed: ?", "", reason)
        return f"| {path.stem} | {name} | **{type(error).__name__}**: {reason[:120]} | | | |"
    counts = quantised(onnx.load(made), before)
    kl, same = distances(given, got)
    size = made.stat().st_size / path.stat().st_size
    return f"| {path.stem} | {name} | {counts} | {size:.2f} | {kl:.1e} | {same:.3f} |"


def products(model: onnx.ModelProto) -> int:
    """Count the products of the graph that have a weight, whether or not a Transpose stands before it."""
    weights = {tensor.name for tensor in model.graph.initializer}
    weights |= {node.output[0] for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in weights}
    return sum(
        node.op_type in ("MatMul", "Gemm") and any(name in weights for name in node.input) for node in model.graph.node
    )


def quantised(model: onnx.ModelProto, before: int) -> str:
    """Say how many of the products are quantised, in operators or between QuantizeLinear and DequantizeLinear."""
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    transposed = {
        node.output[0] for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in dequantised
    }
    count = sum(
        node.op_type in QUANTISED
        or (node.op_type in ("MatMul", "Gemm") and all(i in dequantised | transposed for i in node.input[:2]))
        for node in model.graph.node
    )
    return f"{count} of {before}" if count else "kept"


def inputs(path: Path) -> list[Feed]:
    """Return random inputs of a file, four batches: sequences of 128 tokens at most, or sixteen images."""
    generator = np.random.default_rng(0)
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    known = json.loads(metadata["hsm_export.inputs"])
    longest = json.loads(metadata["hsm_export.config"]).get("max_length") or 128
    feeds: list[Feed] = [{} for _ in range(4)]
    for spec in known:
        many = 1 if "length" in spec["shape"] else 16
        sizes = {"batch": many, "length": min(128, longest)}
        shape = [sizes.get(size, size) for size in spec["shape"]]
        for feed in feeds:
            whole = spec["high"] is not None
            array = generator.integers(0, spec["high"] + 1, shape) if whole else generator.random(shape, np.float32)
            feed[spec["name"]] = array
    return feeds


def run(path: Path, feeds: list[Feed]) -> list[Any]:
    """Return the first output of each run in ONNX Runtime, in float64."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    types = {value.name: kinds[value.type] for value in session.get_inputs()}
    return [
        session.run(None, {name: array.astype(types[name]) for name, array in feed.items()})[0].astype(np.float64)
        for feed in feeds
    ]


def distances(given: list[Any], got: list[Any]) -> tuple[float, float]:
    """Return the mean KL divergence of the predictions and the share of equal most probable tokens."""
    old, new = (np.concatenate([logits.reshape(-1, logits.shape[-1]) for logits in runs]) for runs in (given, got))
    first, second = (_log_softmax(logits) for logits in (old, new))
    kl = float((np.exp(first) * (first - second)).sum(-1).mean())
    return max(kl, 0.0), float((old.argmax(-1) == new.argmax(-1)).mean())


def _log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _dynamic(path: Path, made: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(path, made, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])


def _static(path: Path, made: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter(inputs(path))

        def get_next(self) -> Feed | None:
            return next(self.feeds, None)

    quantize_static(
        path, made, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True
    )


def _bits(bits: int) -> Callable[[Path, Path], None]:
    def quantise(path: Path, made: Path) -> None:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantiser = MatMulNBitsQuantizer(onnx.load(path), block_size=32, is_symmetric=True, bits=bits)
        quantiser.process()
        quantiser.model.save_model_to_file(str(made))

    return quantise


def _float16(path: Path, made: Path) -> None:
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(path), keep_io_types=True), made)


def _slim(path: Path, made: Path) -> None:
    import onnxslim

    onnxslim.slim(str(path), str(made))


def _sim(path: Path, made: Path) -> None:
    import onnxsim

    model, checked = onnxsim.simplify(onnx.load(path))
    if not checked:
        raise ValueError("onnxsim finds its own result wrong")
    onnx.save(model, made)


TOOLS: dict[str, Callable[[Path, Path], None]] = {
    "quantize_dynamic int8": _dynamic,
    "quantize_static QDQ int8": _static,
    "MatMulNBits int8": _bits(8),
    "MatMulNBits int4": _bits(4),
    "onnxconverter-common float16": _float16,
    "onnxslim": _slim,
    "onnxsim": _sim,
}

if __name__ == "__main__":
    main()
