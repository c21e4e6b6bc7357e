"""The weights of a file for which there is a choice of form, and what reads them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..onnx_model.file_operators import FileOperators
from ..onnx_model.nodes import reads_of
from ..onnx_model.stored_weights import stored_weights

if TYPE_CHECKING:
    import onnx

    from hsm_operators import Operator

Array = NDArray[Any]
Kind = Literal["product", "table", "experts"]

# A smaller weight saves next to nothing, and each costs a node.
_LEAST = 512
# Between a product and the choice of experts that it leads to.
_PASS_ON = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast", "Add", "Mul", "Div", "Slice"})


@dataclass(frozen=True)
class Use:
    """A node that reads a weight.

    Attributes:
        node: its index in the graph.
        kind: "product" (MatMul, Gemm), "table" (Gather of rows) or "experts" (an operator of the file's).
        transpose: index of the Transpose between them; -1 without one.
        given: the name of what is multiplied by it; "" where that is not known.
        packed: the operator that takes packed matrices in the place of the node's; "" where there is none.
    """

    node: int
    kind: Kind
    transpose: int = -1
    given: str = ""
    packed: str = ""


@dataclass(frozen=True)
class Weight:
    """A weight of the file.

    Attributes:
        name: of the initialiser.
        source: what the source calls it.
        uses: the nodes that read it, all of them.
        shape: as it is stored.
        swapped: it is stored (…,K,N): K numbers of each of the N outputs stand in a column, else in a row.
    """

    name: str
    source: str
    uses: tuple[Use, ...]
    shape: tuple[int, ...]
    swapped: bool

    @property
    def kinds(self) -> frozenset[Kind]:
        """How it is read."""
        return frozenset(use.kind for use in self.uses)

    @property
    def has_packed_operators(self) -> bool:
        """Whether all operators that read it have forms for matrices of few bits."""
        return all(use.packed for use in self.uses)

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def outputs(self) -> int:
        """Rows N of `matrix`: output channels, rows of a table, of all experts together."""
        return self.elements // self.depth

    @property
    def depth(self) -> int:
        """Numbers K that belong to one output."""
        return self.shape[-2] if self.swapped else self.shape[-1]

    def matrix(self, array: Array) -> Array:
        """Return the weight as (N,K): what belongs to one output is a row."""
        rows = array.swapaxes(-1, -2) if self.swapped else array
        return np.ascontiguousarray(rows.reshape(self.outputs, self.depth))

    def stored(self, matrix: Array) -> Array:
        """Return a matrix (N,K) in the weight's own layout."""
        if not self.swapped:
            return np.ascontiguousarray(matrix.reshape(self.shape))
        shape = (*self.shape[:-2], self.shape[-1], self.shape[-2])
        return np.ascontiguousarray(matrix.reshape(shape).swapaxes(-1, -2))


def find_weights(model: onnx.ModelProto) -> tuple[tuple[Weight, ...], tuple[str, ...]]:
    """Return the float32 weights for which there is a choice, in the file's order, and the names of those left alone.

    A choice have the matrices of MatMul and Gemm, tables that Gather reads rows of, and the matrices of experts. The
    scores that choose experts are never quantised, nor is what has fewer than two dimensions: norms, temperatures.
    """
    import onnx

    readers: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(model.graph.node):
        for name in set(reads_of(node)):
            readers[name].append(index)
    outputs = {value.name for value in model.graph.output}
    known, choosing = stored_weights(model), _choosing(model)
    found: list[Weight] = []
    never: list[str] = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2 or math.prod(tensor.dims) < _LEAST:
            continue
        weight = _weight(model, tensor, readers, outputs, known[tensor.name].name if tensor.name in known else "")
        if weight is None:
            continue
        if any(use.node in choosing for use in weight.uses):
            never.append(weight.source)
        else:
            # A portable file stores a table twice where its product is tied to it: a plan names each by itself.
            known_by = {item.source for item in found}
            found.append(replace(weight, source=tensor.name) if weight.source in known_by else weight)
    return tuple(found), tuple(never)


def _weight(
    model: onnx.ModelProto, tensor: onnx.TensorProto, readers: dict[str, list[int]], outputs: set[str], source: str
) -> Weight | None:
    """Return a weight all of whose readers are understood and agree on what a row is; else None."""
    operators = FileOperators(model)
    uses: list[tuple[Use, bool]] = []
    for index in readers[tensor.name]:
        node = model.graph.node[index]
        operator = operators.find(node)
        if tensor.name in outputs or list(node.input).count(tensor.name) != 1:
            return None
        if node.op_type == "Transpose" and not node.domain and len(tensor.dims) == 2:
            behind = readers[node.output[0]]
            if node.output[0] in outputs or not behind:
                return None
            for other in behind:
                product = model.graph.node[other]
                if product.op_type != "MatMul" or list(product.input).index(node.output[0]) != 1:
                    return None
                uses.append((Use(other, "product", index, product.input[0]), False))
        elif (use := _use(node, index, tensor, operator)) is not None:
            uses.append(use)
        else:
            return None
    swapped = {order for _, order in uses}
    if len(swapped) != 1:
        return None
    return Weight(tensor.name, source or tensor.name, tuple(use for use, _ in uses), tuple(tensor.dims), swapped.pop())


def _use(
    node: onnx.NodeProto, index: int, tensor: onnx.TensorProto, operator: Operator | None
) -> tuple[Use, bool] | None:
    """Return how a node reads a weight, and whether what belongs to one output is a column of it; None if unknown."""
    place = list(node.input).index(tensor.name) if tensor.name in node.input else -1
    attributes = {item.name: item for item in node.attribute}
    if operator is not None:
        # The matrices of experts are (…,K,N); the scores that choose are no constants.
        experts = operator.routing is not None and len(tensor.dims) > 2 and place >= 0
        return (Use(index, "experts", packed=_packed(operator)), True) if experts else None
    if node.domain or len(tensor.dims) != 2:
        return None
    if node.op_type == "MatMul" and place == 1:
        return Use(index, "product", given=node.input[0]), True
    if node.op_type == "Gemm" and place == 1:
        plain = all(attributes[name].f == 1.0 for name in ("alpha", "beta") if name in attributes)
        if not plain or ("transA" in attributes and attributes["transA"].i):
            return None
        return Use(index, "product", given=node.input[0]), not ("transB" in attributes and attributes["transB"].i)
    if node.op_type == "Gather" and place == 0 and not ("axis" in attributes and attributes["axis"].i):
        return Use(index, "table"), False
    return None


def _packed(operator: Operator) -> str:
    """Return the operator of ours that takes packed matrices; "" where there is none."""
    from hsm_operators import DOMAIN, find

    name = f"Quantized{operator.name}"
    return name if operator.domain == DOMAIN and find(DOMAIN, name) is not None else ""


def _choosing(model: onnx.ModelProto) -> set[int]:
    """Return the indices of the products whose results are the scores that choose experts."""
    makers = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    found: set[int] = set()
    for scores in _scores(model):
        waiting, seen = [scores], set[str]()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in makers:
                continue
            seen.add(name)
            node = model.graph.node[makers[name]]
            if node.op_type in ("MatMul", "Gemm"):
                found.add(makers[name])
            elif node.op_type in _PASS_ON:
                waiting += node.input
    return found


def _scores(model: onnx.ModelProto) -> Iterator[str]:
    from ..onnx_model.inlined_mixers import inlined_mixers

    for node, operator in FileOperators(model).nodes(model.graph):
        if operator.routing is not None:
            yield node.input[[port.name for port in operator.inputs].index(operator.routing.logits)]
    for mixer in inlined_mixers(model):
        if mixer.routing is not None:
            yield mixer.routing.logits
