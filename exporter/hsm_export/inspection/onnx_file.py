"""ONNX files: operators, mixers, weights, and the work of one run."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsm_operators import DOMAIN, Operator

from ..dtypes import BY_ONNX, is_float, item_size
from ..errors import BadInputError
from ..onnx_model.file_operators import FileOperators
from ..onnx_model.model_file import FileFacts, ModelFile, read_model, usage_problem
from ..onnx_model.nodes import nodes_of
from ..onnx_model.quantisation_record import SCALES, plan_in
from ..onnx_model.shapes import TensorInfo, constant_nodes, infer, skeleton
from .configuration import part_details
from .costs import node_cost, operator_details
from .result import Cost, FunctionBody, MixerRow, OnnxResult
from .state import state_table

if TYPE_CHECKING:
    import onnx

    from ..formats.quantisation_plan import QuantisationPlan

_MODULE = re.compile(r"^(.*?\b(?:mixer|feed_forward))(?:\.|$)")
_CONSTANT = re.compile(r"^constant_\d+$")


@dataclass
class _Group:
    """Nodes of one module."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)


def inspect_onnx(path: Path, lengths: Sequence[int]) -> OnnxResult:
    """Describe an ONNX file; function bodies are not entered, a mixer operator counts as its fused kernel.

    Raises:
        BadInputError: it is not an ONNX file, is damaged, or lacks its external data.
    """
    file = read_model(path)
    try:
        return _describe(file, lengths)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        # Nodes that contradict their operators: a damaged file can break off anywhere.
        raise BadInputError(f"{path} is a damaged ONNX model: {error}", "export it again") from error


def _describe(file: ModelFile, lengths: Sequence[int]) -> OnnxResult:
    model, facts = file.model, file.facts
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    known = FileOperators(model)
    groups = _group(model.graph.node, known)
    costs, uncounted, tensors = _costs(file, groups, known, lengths)
    problem = usage_problem(file)
    plan = plan_in(file)
    return OnnxResult(
        kind="onnx",
        path=file.path,
        bytes=file.bytes,
        sha256=facts.sha256,
        producer=f"{model.producer_name} {model.producer_version}".strip() or "unknown",
        ir_version=model.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        precision=file.precision,
        quantised=file.quantised,
        inputs=facts.inputs,
        outputs=facts.outputs,
        operators=dict(Counter(map(_operator, nodes_of(model.graph.node))).most_common()),
        functions=tuple(FunctionBody(body.domain, body.name, len(body.node)) for body in model.functions),
        parameters=_all_parameters(weights, plan),
        weight_bytes=_weight_bytes(weights.values()),
        external_data=file.external_files,
        mixers=tuple(
            _row(name, group, tensors, weights, file.parts.get(name), known) for name, group in groups.items() if name
        ),
        costs=costs,
        formulas=_formulas(model.graph, known),
        uncounted=uncounted,
        metadata=dict(file.metadata),
        state=state_table(file.metadata, str(file.path)),
        problem=problem[0] if problem else "",
        quantisation=plan,
    )


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _mixer_name(operator: Operator) -> str:
    """Return an operator's name, with its domain where that is not ours."""
    return operator.name if operator.domain == DOMAIN else operator.qualified_name


def _formulas(graph: onnx.GraphProto, known: FileOperators) -> dict[str, str]:
    """Return what the graph's operators cost for each token, by their names."""
    used = {
        _mixer_name(operator): operator.cost.formula for _, operator in known.nodes(graph) if operator.cost is not None
    }
    return dict(sorted(used.items()))


def _group(nodes: Iterable[onnx.NodeProto], known: FileOperators) -> dict[str, _Group]:
    """Sort nodes by the mixer or feed-forward network that their names say they come from; the rest is under ""."""
    groups: dict[str, _Group] = {}
    for node in nodes:
        module = _MODULE.match(node.name)
        name = module.group(1) if module else node.name or node.op_type if known.find(node) else ""
        groups.setdefault(name, _Group()).nodes.append(node)
    return groups


def _costs(
    file: ModelFile, groups: Mapping[str, _Group], known: FileOperators, lengths: Sequence[int]
) -> tuple[tuple[Cost, ...], dict[str, int], dict[str, TensorInfo]]:
    """Return the work at each length, what it leaves out, and the tensors at the last length; fills the groups'."""
    light, folded = skeleton(file.model), constant_nodes(file.model.graph)
    totals, uncounted, tensors = [], Counter[str](), dict[str, TensorInfo]()
    for length in _lengths(file.facts, lengths):
        tensors = infer(light, _sizes(file, length, max(lengths)))
        uncounted.clear()
        total = (0, 0)
        for group in groups.values():
            work = (0, 0)
            for node in group.nodes:
                cost = (0, 0) if node.output and node.output[0] in folded else node_cost(node, tensors, known)
                uncounted.update([_operator(node)] if cost is None else [])
                work = _sum(work, cost or (0, 0))
            group.costs.append(Cost.of(length, *work))
            total = _sum(total, work)
        totals.append(Cost.of(length, *total))
    return tuple(totals), dict(uncounted), tensors


def _sum(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]


def _lengths(facts: FileFacts, lengths: Sequence[int]) -> tuple[int | None, ...]:
    if _length_name(facts) is None:
        return (None,)
    limit = facts.max_length or max(lengths)
    return tuple(dict.fromkeys(min(length, limit) for length in lengths))


def _length_name(facts: FileFacts) -> str | None:
    """The dynamic dimension that counts tokens: `length`, else the second of the first input that has one."""
    if "length" in facts.dynamic_dimensions:
        return "length"
    seconds = [tensor.shape[1] for tensor in facts.inputs if len(tensor.shape) > 1]
    return next((size for size in seconds if isinstance(size, str)), None)


def _sizes(file: ModelFile, length: int | None, longest: int) -> dict[str, int]:
    """One sequence of this length, and a capacity for the longest; others as in the exporter's example, else 1."""
    sizes = {**dict.fromkeys(file.facts.dynamic_dimensions, 1), **file.example, "batch": 1}
    if "capacity" in sizes:
        sizes["capacity"] = longest
    name = _length_name(file.facts)
    return sizes if name is None or length is None else sizes | {name: length}


def _row(
    name: str,
    group: _Group,
    tensors: Mapping[str, TensorInfo],
    weights: Mapping[str, onnx.TensorProto],
    part: Mapping[str, Any] | None,
    known: FileOperators,
) -> MixerRow:
    fused = [(node, operator) for node in group.nodes if (operator := known.find(node)) is not None]
    operators = tuple(_mixer_name(operator) for _, operator in fused)
    details: dict[str, Any] = {}
    for node, operator in fused:
        details |= operator_details(operator, node, tensors)
    kind, configured = part_details(part) if part and "kind" in part else ("", {})
    return MixerRow(
        name=name,
        kind=kind or ", ".join(dict.fromkeys(operators)) or "dense",
        operators=operators,
        details=configured or details,
        parameters=_parameters(tensor for key, tensor in weights.items() if key.startswith(f"{name}.")),
        costs=tuple(group.costs),
    )


def _parameters(tensors: Iterable[onnx.TensorProto]) -> int:
    """Count the weights: floating-point tensors other than scalars and the constants that the exporter named."""
    return sum(
        math.prod(tensor.dims)
        for tensor in tensors
        if is_float(tensor.data_type) and tensor.dims and not _CONSTANT.match(tensor.name)
    )


def _all_parameters(weights: Mapping[str, onnx.TensorProto], plan: QuantisationPlan | None) -> int:
    """Count the weights, those in whole numbers too, which a plan counts; their scales are none."""
    if plan is None:
        return _parameters(weights.values())
    whole = sum(item.elements for item in plan.weights if item.form not in ("fp32", "fp16"))
    return whole + _parameters(tensor for name, tensor in weights.items() if not name.endswith(SCALES))


def _weight_bytes(tensors: Iterable[onnx.TensorProto]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        kind = BY_ONNX.get(tensor.data_type)
        name = kind.onnx_name.lower() if kind else "undefined"
        sizes[name] += math.ceil(math.prod(tensor.dims) * item_size(tensor.data_type))
    return dict(sizes.most_common())
