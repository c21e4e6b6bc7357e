"""Weights that a file stores transposed, as products take them, under `NAME.T`.

A linear layer of PyTorch multiplies by the transpose of its weight. Quantisers look for a constant beside a product
and see none behind a Transpose. The metadata say which weight of the source each one is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

METADATA = "hsm_export.transposed"
_LONGEST = 1 << 24


@dataclass(frozen=True)
class Stored:
    """Which weight of the source an initialiser is.

    Attributes:
        name: what the source calls it.
        order: the source's axes in the order in which the file has them.
    """

    name: str
    order: tuple[int, ...]

    def of_source(self, weight: Any) -> Any:
        """Return an array of the source as the file stores it."""
        return weight.transpose(self.order)


def stored_weights(model: onnx.ModelProto) -> Mapping[str, Stored]:
    """Return what the source calls the weights that a file stores transposed, by their names in the file.

    Raises:
        BadInputError: what the file says of them is malformed.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA), "")
    if not text:
        return {}
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"it has {len(text):,} characters")
        found = {}
        for name, (source, order) in json.loads(text).items():
            if not isinstance(source, str) or sorted(order) != list(range(len(order))):
                raise ValueError(f"the entry of {name} is none")
            found[name] = Stored(source, tuple(order))
        return found
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadInputError(f"the metadata {METADATA} is malformed: {error}", "export the file again") from error


def store_transposed(model: ir.Model, weights: set[str], *, shared: bool) -> None:
    """Store weights that are read through a Transpose in the order in which they are read, in place.

    Args:
        model: the graph; its metadata say what became of which weight.
        weights: names of the initialisers that are weights; the new ones join them.
        shared: also those that something else reads as they are, such as a table of tokens; they are then stored twice.
    """
    known: dict[str, Any] = json.loads(model.metadata_props.get(METADATA, "{}"))
    made: dict[tuple[str, tuple[int, ...]], ir.Value] = {}
    for node in list(model.graph):
        weight = node.inputs[0] if node.op_type == "Transpose" and node.domain == "" else None
        if weight is None or weight.name not in weights or weight.const_value is None or weight.name in known:
            continue
        others = [reader for reader, _ in weight.uses() if reader.op_type != "Transpose"]
        if weight.is_graph_output() or node.outputs[0].is_graph_output() or (others and not shared):
            continue
        order = tuple(node.attributes.get_ints("perm") or reversed(range(len(weight.const_value.shape))))
        key = weight.name, order
        if key not in made:
            made[key] = _transposed(weight, order, set(model.graph.initializers))
            model.graph.initializers.add(made[key])
            weights.add(made[key].name or "")
            known[made[key].name or ""] = [weight.name, list(order)]
        node.outputs[0].replace_all_uses_with(made[key])
        model.graph.remove(node, safe=True)
        if not weight.uses():
            del model.graph.initializers[weight.name]
    if known:
        model.metadata_props[METADATA] = json.dumps(known)


def _transposed(weight: ir.Value, order: tuple[int, ...], taken: set[str]) -> ir.Value:
    import numpy as np
    import onnx_ir as ir

    tensor = weight.const_value
    assert tensor is not None and weight.name is not None
    reversed_ = order == tuple(reversed(range(len(order))))
    name = f"{weight.name}.T" if reversed_ else f"{weight.name}.{''.join(map(str, order))}"
    while name in taken:
        name += "_"
    shape = ir.Shape([tensor.shape.numpy()[axis] for axis in order])

    def make() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy().transpose(order)), dtype=tensor.dtype, name=name)

    lazy = ir.LazyTensor(make, dtype=tensor.dtype, shape=shape, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=lazy)
