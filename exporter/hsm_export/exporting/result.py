"""What an export returns and writes beside the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..formats.result import Result
from ..formats.state_spec import StateSpec
from ..formats.tensor import InputSpec


@dataclass(frozen=True)
class CheckedOutput(Result):
    """One output of one run in ONNX Runtime, against PyTorch in float64.

    Attributes:
        output: its name.
        shapes: input name -> shape of the run.
        max_abs_error: largest |file - PyTorch float64|.
        max_rel_error: largest |file - PyTorch float64| / max |PyTorch float64|.
        torch_max_abs_error: the same error of PyTorch itself in the file's precision; None where it cannot run in it.
        allowed: what the error may be at most.
    """

    output: str
    shapes: dict[str, tuple[int, ...]]
    max_abs_error: float
    max_rel_error: float
    torch_max_abs_error: float | None
    allowed: float


@dataclass(frozen=True)
class ExportResult(Result):
    """A file that was written and checked.

    Attributes:
        path: the ONNX file.
        external_data: the file of its weights, when they are not inside.
        report: the JSON file with the measured errors.
        precision: "fp32", "fp16" or "bf16".
        task: "language_model", "sequence_classifier" or "".
        source_sha256: SHA-256 of the source's weights and configuration.
        sha256: SHA-256 of the ONNX file.
        bytes: size of the ONNX file and its external data.
        parameters: number of trained weights.
        nodes: number of nodes in the graph.
        mixers: node name -> operator of domain `hsm`.
        inputs: the graph's inputs.
        outputs: names of the graph's outputs.
        checks: the runs against PyTorch.
        versions: the packages that made and checked the file.
        state: what a decoding graph carries from call to call; None for other graphs.
        wide_nodes: the nodes that a precision plan keeps in float32; None without a plan.
        cpu_file: an equal file for CPUs, where one was asked for.
        tokenizer: the copy of the checkpoint's tokenizer beside the file; None for bytes and for models without one.
        fixed: sentences about inputs that take one length only, because the module works with no other, and about
            sizes that belong together.
    """

    path: Path
    external_data: Path | None
    report: Path
    precision: str
    task: str
    source_sha256: str
    sha256: str
    bytes: int
    parameters: int
    nodes: int
    mixers: dict[str, str]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    checks: tuple[CheckedOutput, ...]
    versions: dict[str, str]
    state: StateSpec | None = None
    wide_nodes: tuple[str, ...] | None = None
    cpu_file: Path | None = None
    tokenizer: Path | None = None
    fixed: tuple[str, ...] = ()
