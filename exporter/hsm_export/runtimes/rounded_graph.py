"""ONNX files whose intermediate numbers are rounded at random when they run in float64, each to its own type.

The twin of `rounding`, which does the same to modules of PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..comparison.allowance import APPROXIMATED, LONG, POOLED, SHORT_TOO, UNITS, sum_error, terms
from ..comparison.threshold import FACTOR
from ..dtypes import BY_ONNX, EPSILON, ElementType
from ..onnx_model.nodes import subgraphs
from .value_types import inferred, infos_of, stated_infos

if TYPE_CHECKING:
    import onnx

# They return numbers that they were given, that the nodes of their inner graphs gave, or whole ones.
_MOVES = frozenset(
    {
        "Abs", "Ceil", "Clip", "Compress", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand",
        "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Identity", "If", "Loop", "Max",
        "MaxPool", "Min", "Neg", "OneHot", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "ReverseSequence",
        "Round", "Scan", "ScatterElements", "ScatterND", "Sign", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
        "TopK", "Transpose", "Trilu", "Unsqueeze", "Where",
    }
)  # fmt: skip
_ML_MOVES = frozenset(
    {
        "ArrayFeatureExtractor", "Binarizer", "CategoryMapper", "DictVectorizer", "FeatureVectorizer", "Imputer",
        "LabelEncoder", "OneHotEncoder", "ZipMap",
    }
)  # fmt: skip
# In place of a dynamic dimension.
_TYPICAL_SIZE = 16


def rounded_graph(model: onnx.ModelProto, draw: int) -> onnx.ModelProto:
    """Return a copy of a model that rounds the results of its nodes at random, those of inner graphs too.

    Functions of others become their nodes first, as in every runtime; those of operators that we know stay one node.

    Args:
        model: the model; it is promoted to float64 afterwards.
        draw: which random choice; 0 returns the model.
    """
    if not draw:
        return model
    import onnx

    from hsm_operators import inline

    changed = onnx.ModelProto()
    changed.CopyFrom(inline(model, known=False))
    typed = inferred(changed)
    _round(changed.graph, typed.graph, infos_of(typed), _seeds(draw))
    return changed


def _seeds(draw: int) -> Iterator[float]:
    """Yield a seed for each result."""
    seed = 1000.0 * draw
    while True:
        seed += 1.0
        yield seed


def _round(
    graph: onnx.GraphProto, typed: onnx.GraphProto, infos: Mapping[str, onnx.ValueInfoProto], seeds: Iterator[float]
) -> None:
    """Round a graph in place.

    Args:
        graph: the graph.
        typed: the same graph, which states the types of its values.
        infos: what is known of the values that its nodes see, those of graphs around it too.
        seeds: one for each result.
    """
    types = {name: item.type.tensor_type.elem_type for name, item in infos.items()}
    sizes = {name: _size(item) for name, item in infos.items()}
    nodes: list[onnx.NodeProto] = []
    for node, same in zip(graph.node, typed.node, strict=True):
        for inner, known in zip(subgraphs(node), subgraphs(same), strict=True):
            _round(inner, known, {**infos, **stated_infos(known)}, seeds)
        nodes.append(node)
        if _moves(node, types):
            continue
        for place, name in enumerate(node.output):
            kind = BY_ONNX.get(types.get(name, 0))
            if not name or kind is None or not kind.is_float:
                continue
            node.output[place] = f"{name}.exact"
            nodes += _noise(node, name, kind, next(seeds), sizes)
    del graph.node[:]
    graph.node.extend(nodes)


def _moves(node: onnx.NodeProto, types: Mapping[str, int]) -> bool:
    """Say whether a node rounds nothing: it returns numbers that it was given, or whole numbers."""
    if node.domain == "ai.onnx.ml":
        return node.op_type in _ML_MOVES
    if node.op_type in ("Cast", "CastLike") and node.domain == "":
        source = BY_ONNX.get(types.get(node.input[0], 0))
        return source is not None and not source.is_float
    return node.op_type in _MOVES and node.domain == ""


def _size(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return a tensor's shape, a typical size in place of each dynamic dimension."""
    return tuple(dim.dim_value or _TYPICAL_SIZE for dim in value.type.tensor_type.shape.dim)


def _noise(node: onnx.NodeProto, name: str, kind: ElementType, seed: float, infos: Mapping[str, Any]) -> list[Any]:
    """Return nodes that turn the exact result of a node into one that is rounded at random."""
    from onnx import helper

    def op(operator: str, inputs: Sequence[str], result: str, **attributes: Any) -> str:
        made.append(helper.make_node(operator, list(inputs), [f"{name}.{result}"], **attributes))
        return f"{name}.{result}"

    def number(value: float, result: str) -> str:
        return op("Constant", [], result, value=helper.make_tensor(result, kind.onnx, [], [value]))

    def noise(half: float, place: int) -> str:
        return op("RandomUniformLike", [exact], f"noise{place}", low=-half, high=half, seed=seed + place / 8)

    made: list[Any] = []
    exact = f"{name}.exact"
    factor = op("Add", [noise(kind.epsilon / 2, 0), number(1.0, "one")], "factor")
    rounded = op("Mul", [exact, factor], "rounded")
    units = UNITS / FACTOR * EPSILON["fp32"]
    shapes = [infos.get(item, ()) for item in node.input]
    if APPROXIMATED.get(node.op_type) == "one":
        rounded = op("Add", [rounded, noise(units, 1)], "approximated")
    elif APPROXIMATED.get(node.op_type) == "input":
        rounded = op("Add", [rounded, op("Mul", [noise(units, 1), node.input[0]], "of_input")], "approximated")
    known = node.op_type not in POOLED
    count = terms(node.op_type, shapes, math.prod(infos.get(name, ()))) if known else 1
    if count:
        largest = op("ReduceMax", [op("Abs", [exact], "magnitude")], "largest", keepdims=0)
        if not known:  # how many terms there are, the run shows, whatever the graph says of its shapes
            whole = op("Cast", [op("Size", [node.input[0]], "size")], "whole", to=kind.onnx)
            each = op("Div", [whole, op("Cast", [op("Size", [exact], "results")], "each", to=kind.onnx)], "terms")
            least = number(1.0 if node.op_type in SHORT_TOO else float(LONG), "least")
            counts = op("Cast", [op("Not", [op("Less", [each, least], "few")], "many")], "counts", to=kind.onnx)
            largest = op("Mul", [op("Mul", [op("Sqrt", [each], "root"), counts], "roots"), largest], "of_all")
        rounded = op("Add", [rounded, op("Mul", [noise(sum_error(count, 1.0), 2), largest], "of_sum")], "summed")
    made[-1].output[0] = name
    return made
