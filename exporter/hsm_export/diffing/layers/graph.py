"""The data flow of a graph: its nodes as layers, and single nodes or segments as models of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ...dtypes import BY_NAME, BY_ONNX, BY_PRECISION, EXACT, WIDENED
from ...onnx_model.nodes import reads_of
from ...runtimes.value_types import tensor_infos

FLOATS = {kind: BY_ONNX[kind].name for kind in WIDENED}
_PRECISIONS = {item.onnx: word for word, item in BY_PRECISION.items()}
# What is a layer's result: numbers of these types, and integers and Booleans, which are equal or wrong.
_RESULTS = {*_PRECISIONS, *(BY_NAME[name].onnx for name in EXACT)}


@dataclass(frozen=True)
class Layer:
    """A node whose results depend on the graph's inputs.

    Attributes:
        index: its position in the graph.
        node, operator, domain: names.
        inputs: the tensors it reads that depend on the graph's inputs too, also inside its subgraphs; each once.
        outputs: the tensors of numbers and Booleans that it writes.
        attributes: its attributes as text.
    """

    index: int
    node: str
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, str]


class LayerGraph:
    """The main graph of a model.

    Args:
        model: an ONNX model; its external data is not read.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._values = tensor_infos(model)
        self.types = {name: value.type.tensor_type.elem_type for name, value in self._values.items()}
        self._varying = {value.name for value in model.graph.input} - {item.name for item in model.graph.initializer}
        self._producers: dict[str, int] = {}
        self._nodes = list(model.graph.node)
        self._initializers = {item.name: item for item in model.graph.initializer}
        self._sparse = {item.values.name: item for item in model.graph.sparse_initializer}
        layers = []
        for index, node in enumerate(self._nodes):
            reads = tuple(dict.fromkeys(name for name in reads_of(node) if name in self._varying))
            self._producers.update((name, index) for name in node.output if name)
            if reads or _is_random(node):
                self._varying.update(name for name in node.output if name)
                if all(map(self._may_be_tensor, (*reads, *node.output))):
                    layers.append(self._layer(index, node, reads))
        self.layers = tuple(layers)
        self.layer_at = {layer.index: layer for layer in layers}

    def _may_be_tensor(self, name: str) -> bool:
        """Whether a value is a tensor, or of a type that nobody knows; sequences cannot be compared as layers."""
        return name not in self._values or self._values[name].type.HasField("tensor_type")

    @cached_property
    def readers(self) -> dict[str, tuple[int, ...]]:
        """Indices of the nodes that read each tensor."""
        found: dict[str, list[int]] = {}
        for index, node in enumerate(self._nodes):
            for name in set(reads_of(node)):
                found.setdefault(name, []).append(index)
        return {name: tuple(indices) for name, indices in found.items()}

    def precision(self, tensor: str) -> str:
        """Return the precision of a tensor, "fp32" where its type is not known."""
        return _PRECISIONS.get(self.types.get(tensor, TensorProto.FLOAT), "fp32")

    def dtype(self, tensor: str) -> str:
        """Return the name of a tensor's type."""
        kind = BY_ONNX.get(self.types.get(tensor, TensorProto.FLOAT))
        return kind.name if kind else "float32"

    def info(self, tensor: str) -> onnx.ValueInfoProto:
        """Return a tensor's name, type and shape as far as they are known, float32 where they are not."""
        known = self._values.get(tensor)
        return known if known is not None else helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)

    def dimensions(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """Return the sizes that a feed gives to the named dimensions of the graph's inputs."""
        sizes: dict[str, int] = {}
        for value in self.model.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, np.shape(feed.get(value.name, ())), strict=False):
                if dim.dim_param:
                    sizes[dim.dim_param] = size
        return sizes

    def elements(self, tensor: str, sizes: Mapping[str, int]) -> int | None:
        """Return the number of elements of a tensor with these dimensions, None where it is not known."""
        value = self._values.get(tensor)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        count = 1
        for dim in value.type.tensor_type.shape.dim:
            size = dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param)
            if size is None:
                return None
            count *= size
        return count

    def specified(self, tensor: str, array: NDArray[Any], lengths: NDArray[Any] | None) -> NDArray[np.bool_] | None:
        """Return which elements mean something: (B,T,…) tensors are unspecified beyond a row's length; None for all.

        Args:
            tensor: its name.
            array: its numbers.
            lengths: (B) valid tokens of each row; None when all are.
        """
        if lengths is None or array.ndim < 3 or array.shape[0] != len(lengths):
            return None
        dims = self.info(tensor).type.tensor_type.shape.dim
        if len(dims) > 1 and dims[1].HasField("dim_value"):
            return None  # heads, not tokens
        if array.shape[1] < int(lengths.max()):
            return None
        valid = np.arange(array.shape[1])[None, :] < lengths[:, None]
        return np.broadcast_to(valid.reshape(valid.shape + (1,) * (array.ndim - 2)), array.shape)

    def constants(self, index: int, folder: Path) -> dict[str, NDArray[Any]]:
        """Return the values of a node's inputs that depend on weights alone.

        Args:
            index: the node's position.
            folder: where external data lies.
        """
        names = [name for name in reads_of(self._nodes[index]) if name not in self._varying]
        made = [name for name in names if name not in self._initializers]
        values = {name: self._weight(name, folder) for name in names if name not in made}
        if made:
            makers = self._with_constants({index}) - {index}
            nodes = [self._nodes[maker] for maker in sorted(makers)]
            weights = {name for node in nodes for name in reads_of(node) if name in self._initializers}
            feed = {name: self._weight(name, folder) for name in sorted(weights)}
            graph = helper.make_graph(nodes, "constants", [self.info(n) for n in feed], [self.info(n) for n in made])
            model = helper.make_model(graph, opset_imports=list(self.model.opset_import))
            results: Any = ReferenceEvaluator(model).run(made, feed)
            values.update(zip(made, results, strict=True))
        return values

    def _weight(self, name: str, folder: Path) -> NDArray[Any]:
        return numpy_helper.to_array(self._initializers[name], str(folder))

    def borders(self, indices: Iterable[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what nodes read from outside that depends on the inputs, and what others read of their results."""
        inside = set(indices)
        reads: dict[str, None] = {}
        writes: dict[str, None] = {}
        results = {value.name for value in self.model.graph.output}
        for index in sorted(inside):
            node = self._nodes[index]
            for name in reads_of(node):
                if name in self._varying and self._producers.get(name) not in inside:
                    reads[name] = None
            for name in node.output:
                if name in results or set(self.readers.get(name, ())) - inside:
                    writes[name] = None
        return tuple(reads), tuple(writes)

    def extract(self, indices: Collection[int], outputs: Iterable[str] | None = None) -> onnx.ModelProto:
        """Return nodes as a model of their own, with the weights that they read and the functions of the file.

        What they read from outside becomes an input, unless it depends on weights alone: its nodes come along.

        Args:
            indices: positions of the nodes.
            outputs: its outputs; None means what other nodes read, and all results of a single node.
        """
        inputs, written = self.borders(indices)
        if outputs is None:
            single = self._nodes[next(iter(indices))] if len(indices) == 1 else None
            outputs = tuple(name for name in single.output if name) if single is not None else written
        nodes = [self._nodes[index] for index in sorted(self._with_constants(indices))]
        names = {name for node in nodes for name in reads_of(node)}
        graph = helper.make_graph(
            nodes,
            "layer",
            [self.info(name) for name in inputs],
            [self.info(name) for name in outputs],
            [self._initializers[name] for name in sorted(names) if name in self._initializers],
            sparse_initializer=[self._sparse[name] for name in sorted(names) if name in self._sparse],
        )
        model = helper.make_model(graph, opset_imports=list(self.model.opset_import), functions=self.model.functions)
        model.ir_version = self.model.ir_version
        return model

    def _with_constants(self, indices: Collection[int]) -> set[int]:
        """Add the nodes that make what these read from weights alone."""
        needed = set(indices)
        waiting = list(indices)
        while waiting:
            for name in reads_of(self._nodes[waiting.pop()]):
                producer = self._producers.get(name)
                if producer is not None and name not in self._varying and producer not in needed:
                    needed.add(producer)
                    waiting.append(producer)
        return needed

    def _layer(self, index: int, node: onnx.NodeProto, reads: tuple[str, ...]) -> Layer:
        floats = tuple(name for name in node.output if name and self.types.get(name, TensorProto.FLOAT) in _RESULTS)
        attributes = {item.name: _attribute_text(item) for item in node.attribute}
        return Layer(index, node_name(node, index), node.op_type, node.domain, reads, floats, attributes)


def node_name(node: onnx.NodeProto, index: int) -> str:
    """Return a node's name, or one made of its operator and position."""
    return node.name or f"{node.op_type}_{index}"


def _is_random(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")


def _attribute_text(attribute: onnx.AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, TensorProto):
        return f"tensor {helper.tensor_dtype_to_np_dtype(value.data_type).name} {list(value.dims)}"
    if isinstance(value, onnx.GraphProto):
        return f"graph of {len(value.node)} nodes"
    return str(list(value) if isinstance(value, (list, tuple)) or hasattr(value, "append") else value)
