"""Export a trained model to one ONNX file that is checked before it appears."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dtypes import WRITTEN_PRECISIONS
from ..errors import BadInputError, MissingDependencyError, NumbersDifferError, UsageError
from ..formats.tensor import InputSpec
from ..machine import versions
from .result import CheckedOutput, ExportResult

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

    from .source import Source
    from .wide_nodes import WideNodes

# The packages that make and check a file.
PACKAGES = ("hsm-export", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu")

__all__ = ["CheckedOutput", "ExportResult", "InputSpec", "export"]


def export(
    source: str | Path | nn.Module,
    example_inputs: Any = None,
    output: str | Path | None = None,
    *,
    precision: str | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    external_data: bool | None = None,
    decode: bool = False,
    capacity: int | None = None,
    rollback: int = 0,
    last_logits: bool = False,
    precision_plan: str | Path | None = None,
    portable: bool = False,
    static: tuple[int, int] | Mapping[str, int] | None = None,
    cpu_file: bool = False,
    lengths: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ExportResult:
    """Export a checkpoint or a module to ONNX; nothing is written unless every check passes.

    Each mixer becomes one node of domain `hsm` whose function body is in the same file. A tokenizer that belongs to a
    checkpoint is copied beside the file. The file is checked by the
    ONNX checker and strict shape inference, and run in ONNX Runtime against the module in float64.

    Args:
        source: a checkpoint's path, `zoo:NAME`, an nn.Module, or `FILE.py:FACTORY`, a function without
            arguments that makes one.
        example_inputs: for a module of your own: a tensor, a tuple of the arguments of `forward`, or a dict of
            keyword arguments. Language models that decode (docs/decoding.md) need none.
        output: the ONNX file to write.
        precision: type of the weights and activations: "fp32", "fp16" or "bf16". Norms, softmax, reductions and
            routing stay in float32, and so do all floating-point inputs and outputs. "fp64", for modules without
            mixers of ours: everything in float64. None takes the type of the module's parameters.
        input_names: names of the tensors in the file; default: the parameters of `forward`.
        output_names: names of the results; default: "logits" for our models, else "output" or "output_0", ...
        dynamic: input name -> {dimension: name}, replacing the default for that input: dimension 0 is `batch`,
            dimension 1 of integer inputs and of (B,T,D) inputs is `length`. `{}` fixes all of them.
        external_data: put the weights into `<output>.data`; None does so above 256 MB.
        decode: export a language model's decoding step: one graph for prompts, chunks and single tokens, whose state
            goes in as `past.*` and comes out as `present.*`.
        capacity: of a decoding step, the tokens that a row may reach where its state grows; None lets the host choose.
        rollback: of a decoding step, the tokens that a host may take back: states of slots get as many spare ones.
        last_logits: of a decoding step, return the logits of each row's last valid token only.
        precision_plan: the file that says which nodes stay in float32 (`hsm-export diff --precision-plan` writes it),
            in place of the rule by operator type; it belongs to one model and one precision.
        portable: write ONNX's own operators alone, for runtimes that know no functions: bodies in the place of the
            mixers' nodes, without Scan where the mixer allows it, weights as products take them (`NAME.T`). Kernels
            do not run such a file.
        static: the size of every dynamic dimension, by name or as (batch, length), for compilers that know no dynamic
            shapes; the file is a portable one.
        cpu_file: with "bf16", write `<output without .onnx>.cpu.onnx` too, an equal graph that computes in float32 and
            rounds each result: no ONNX Runtime computes in bfloat16 on CPUs.
        lengths: let a classifier of ours take `lengths` (B,), the valid tokens of each right-padded row, though it was
            trained without: batches of sequences of any lengths then need no padding that counts.
        progress: is called with the name of each phase.

    Raises:
        UsageError: arguments that contradict each other.
        BadInputError: a model that cannot be exported, a file that fails its checks, or an output that cannot be
            written.
        NumbersDifferError: the file's numbers depart from PyTorch's.
        MissingDependencyError: ONNX Runtime is not installed.
        CheckpointError, ConfigError: a damaged or hostile checkpoint.
    """
    from ..files import atomic_directory, check_target
    from ..formats.tokenizer_file import tokenizer_of
    from .decoding import DecodeOptions, decoding_source
    from .source import resolve
    from .wide_nodes import read_plan

    if precision not in (None, *WRITTEN_PRECISIONS):
        raise UsageError(f"precision must be one of {', '.join(WRITTEN_PRECISIONS)}, got {precision!r}")
    if output is None:
        raise UsageError("export needs an output path", 'call export(source, output="model.onnx")')
    options = DecodeOptions(capacity, rollback, last_logits)
    if not decode and options != DecodeOptions():
        raise UsageError("capacity, rollback and last_logits are for decoding", "add decode=True (--decode)")
    if decode and any(given is not None for given in (example_inputs, input_names, output_names, dynamic)):
        raise UsageError("a decoding step has inputs and outputs of its own: leave examples and names out")
    if decode and lengths:
        raise UsageError("a decoding step takes lengths anyway", "leave out lengths (--lengths)")
    _require_onnxruntime()
    target = Path(output)
    check_target(target)
    plan = None if precision_plan is None else read_plan(precision_plan)
    progress = progress or (lambda phase: None)
    with atomic_directory(target.parent) as scratch:
        progress("loading")
        resolved = resolve(
            source,
            example_inputs,
            input_names,
            output_names,
            dynamic,
            decode=decode,
            precision=precision,
            lengths=lengths,
        )
        precision = resolved.precision
        if cpu_file and precision != "bf16":
            raise UsageError(f"files in {precision} run on CPUs as they are", "leave out cpu_file (--cpu-file)")
        if decode:
            resolved = decoding_source(resolved, options, precision)
        if plan is not None:
            plan.require_fit(resolved, precision)
        sizes = {"batch": static[0], "length": static[1]} if isinstance(static, tuple) else static
        tokenizer = tokenizer_of(source, _vocabulary(resolved))
        form = Form(external_data, portable or sizes is not None, sizes, cpu_file, tokenizer)
        return _export(resolved, target, scratch, precision, plan, form, progress)


def _vocabulary(source: Source) -> int | None:
    """Return the number of token ids of a language model of ours; None for all others."""
    return json.loads(source.config)["vocab_size"] if source.config and source.task == "language_model" else None


@dataclass(frozen=True)
class Form:
    """How a graph is written.

    Attributes:
        external_data: put the weights into a file of their own; None does so where they are large.
        portable: ONNX's own operators alone.
        sizes: the size of every dynamic dimension; None keeps them dynamic.
        cpu_file: write a copy that CPUs run, of a file in bfloat16.
        tokenizer: what is copied beside the file; None for nothing.
    """

    external_data: bool | None
    portable: bool
    sizes: Mapping[str, int] | None
    cpu_file: bool = False
    tokenizer: Path | None = None


def _export(
    source: Source,
    target: Path,
    scratch: Path,
    precision: str,
    plan: WideNodes | None,
    form: Form,
    progress: Callable[[str], None],
) -> ExportResult:
    from ..formats.tokenizer_file import copy_tokenizer
    from ..onnx_model.portable import make_portable
    from ..onnx_model.static_shapes import make_static
    from ..onnx_model.stored_weights import store_transposed
    from ..runtimes.evaluations import have_evaluations
    from .assembling import active_counts, all_tensors, feed_of, finished_graph
    from .comparing import compare, references
    from .dimensions import fixed_lengths
    from .finishing import describe_inputs, write
    from .static import at_sizes

    progress("tracing")
    model, inputs = finished_graph(source, precision, plan)
    fixed = (*fixed_lengths(source.arguments.inputs, inputs), *_related(model))
    if form.sizes is not None:
        source, inputs = at_sizes(source, inputs, form.sizes)
    progress("running PyTorch")
    several = have_evaluations((node.domain, node.op_type) for node in model.graph)
    active = active_counts(model)
    expected = references(source, precision, active, inputs, evaluations=several)
    feeds = [feed_of(model, reference.feeds, reference.masks) for reference in expected]
    mixers = _mixers(model)
    weights = {name for name, _ in all_tensors(source.module)}
    if form.portable:
        make_portable(model, weights)
        if form.sizes is not None:
            make_static(model, form.sizes, weights)
            describe_inputs(model, inputs)
    else:
        store_transposed(model, weights, shared=False)
    progress("writing")
    path = scratch / target.name
    data = write(model, path, form.external_data)
    progress("checking")
    results = _checked(path, feeds, scratch, precision)
    try:
        checks = compare(results, expected, precision)
    except NumbersDifferError:
        progress("running PyTorch again, with more roundings")
        expected = references(source, precision, active, inputs, evaluations=several, many=True)
        checks = compare(results, expected, precision)
    result = _result(model, mixers, source, target, path, data, precision, plan, inputs, checks, fixed, form)
    (scratch / result.report.name).write_text(json.dumps(_side_file(result), indent=2) + "\n")
    copy = _write_cpu_file(path, result.cpu_file) if result.cpu_file is not None else None
    for written in (data, copy, path, scratch / result.report.name):
        if written is not None:
            written.replace(target.with_name(written.name))
    if form.tokenizer is not None:
        copy_tokenizer(form.tokenizer, target)
    return result


def _related(model: ir.Model) -> Iterator[str]:
    for relation in json.loads(model.metadata_props.get("hsm_export.relations", "[]")):
        yield f"the file holds where {relation}: the module takes another way elsewhere"


def _checked(path: Path, feeds: list[dict[str, Any]], scratch: Path, precision: str) -> list[dict[str, Any]]:
    """Check the written file in a process of its own, and return its results."""
    from .checking import check_in_subprocess

    try:
        return check_in_subprocess(path, feeds, scratch)
    except BadInputError as error:
        if precision == "fp64":
            error.hint = "ONNX Runtime computes only some operators in float64: export with precision='fp32'"
        raise


def _write_cpu_file(path: Path, target: Path) -> Path:
    """Write the copy of a bfloat16 file that CPUs run beside it; both share weights outside of the files."""
    from ..onnx_model.cpu_variant import cpu_variant
    from ..onnx_model.model_file import open_model

    variant = cpu_variant(open_model(path).facts)
    assert variant is not None
    copy = path.with_name(target.name)
    copy.write_bytes(variant.SerializeToString())
    return copy


def _result(
    model: ir.Model,
    mixers: dict[str, str],
    source: Source,
    target: Path,
    path: Path,
    data: Path | None,
    precision: str,
    plan: WideNodes | None,
    inputs: tuple[InputSpec, ...],
    checks: tuple[CheckedOutput, ...],
    fixed: tuple[str, ...],
    form: Form,
) -> ExportResult:
    from ..files import sha256
    from ..formats.state_spec import StateSpec
    from ..formats.tokenizer_file import tokenizer_copy

    return ExportResult(
        path=target,
        external_data=None if data is None else target.with_name(data.name),
        report=target.with_name(f"{target.name}.json"),
        cpu_file=target.with_name(f"{target.name.removesuffix('.onnx')}.cpu.onnx") if form.cpu_file else None,
        tokenizer=None if form.tokenizer is None else tokenizer_copy(form.tokenizer, target),
        precision=precision,
        task=source.task,
        source_sha256=source.sha256,
        sha256=sha256(path),
        bytes=path.stat().st_size + (0 if data is None else data.stat().st_size),
        parameters=sum(parameter.numel() for parameter in source.module.parameters()),
        nodes=len(model.graph),
        mixers=mixers,
        inputs=inputs,
        outputs=tuple(value.name or "" for value in model.graph.outputs),
        checks=checks,
        versions=versions(*PACKAGES),
        state=None if source.state is None else StateSpec.from_metadata(model.metadata_props, str(target)),
        wide_nodes=None if plan is None else plan.names,
        fixed=fixed,
    )


def _mixers(model: ir.Model) -> dict[str, str]:
    """Return the operators of the graph by the nodes' names; those of other domains than ours with their domain."""
    from hsm_operators import DOMAIN, find

    found = ((node, find(node.domain, node.op_type)) for node in model.graph)
    return {
        node.name or "": node.op_type if node.domain == DOMAIN else f"{node.domain}::{node.op_type}"
        for node, operator in found
        if operator is not None
    }


def _side_file(result: ExportResult) -> dict[str, Any]:
    """Return what is written beside the file: the result, with file names instead of paths."""
    data = result.to_dict()
    for key in ("path", "external_data", "report", "cpu_file", "tokenizer"):
        data[key] = data[key] and Path(data[key]).name
    return data


def _require_onnxruntime() -> None:
    from importlib.util import find_spec

    if find_spec("onnxruntime") is None:
        raise MissingDependencyError(
            "exporting needs ONNX Runtime, to run the file before it is handed over",
            "pip install 'hsm-export[cpu]', or 'hsm-export[gpu]'",
        )
