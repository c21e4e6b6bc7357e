"""Write weights in their forms into a graph, in ONNX Runtime's dialect or as QuantizeLinear's counterpart (QDQ)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..errors import BadInputError
from ..formats.quantisation_plan import Activations, Dialect
from ..onnx_model.nodes import nodes_of
from ..onnx_model.quantisation_record import INT8_ACTIVATIONS
from .forms import Codes, is_widened
from .weights import Use, Weight

Array = NDArray[Any]

MICROSOFT = "com.microsoft"
_BLOCKWISE_OPSET, _BLOCKWISE_IR = 21, 10
# Operators of ONNX whose versions from 18 to 21 only take more types, or attributes with the old meaning as default.
_UNCHANGED = frozenset(
    {
        "Cast",
        "CastLike",
        "Constant",
        "ConstantOfShape",
        "DequantizeLinear",
        "Equal",
        "Flatten",
        "Identity",
        "If",
        "Loop",
    }
    | {"Pad", "QuantizeLinear", "Reshape", "Resize", "Scan", "Shape", "Size", "Squeeze", "Transpose", "Unsqueeze"}
    | {"AveragePool", "GridSample", "IsInf", "IsNaN", "ReduceMax", "ReduceMin"}
)


def rewritten(
    model: onnx.ModelProto,
    weights: Sequence[Weight],
    codes: Mapping[str, Codes],
    halves: Sequence[str],
    dialect: Dialect,
    activations: Activations = "float32",
) -> onnx.ModelProto:
    """Return a copy of a graph whose weights have other forms.

    Args:
        model: the graph with its weights in it, and no external data.
        weights: of `find_weights`.
        codes: by the names of the weights, those in whole numbers.
        halves: the names of the weights in float16.
        dialect: "ort" (MatMulNBits, GatherBlockQuantized, DynamicQuantizeMatMul) or "qdq" (DequantizeLinear).
        activations: "int8" lets MatMulNBits round what it multiplies.

    Raises:
        BadInputError: blocks of 4 bits need version 21 of ONNX's operators, and the graph has one that changed.
    """
    halves_of = {item.name: item for item in model.graph.initializer if item.name in halves}
    copy = copied_without(model, {*codes, *halves})
    rewriting = _Rewriting(copy, model)
    for weight in weights:
        if weight.name in halves:
            rewriting.store_half(weight, halves_of[weight.name])
        elif weight.name in codes:
            _store(rewriting, weight, codes[weight.name], dialect, activations)
    rewriting.finish()
    if rewriting.microsoft:
        _import(copy, MICROSOFT, 1)
    if rewriting.blocks:
        _require_blocks(copy)
    _add_bodies(copy, rewriting.operators)
    return copy


def _store(rewriting: _Rewriting, weight: Weight, codes: Codes, dialect: Dialect, activations: Activations) -> None:
    if is_widened(codes.form, weight, dialect, activations):
        rewriting.store_widened(weight, codes)
    elif "experts" in weight.kinds:
        rewriting.store_experts(weight, codes)
    elif dialect == "qdq":
        rewriting.store_dequantised(weight, codes)
    elif codes.form == "dynamic8":
        rewriting.store_dynamic(weight, codes)
    else:
        rewriting.store_blocks(weight, codes, activations)


class _Rewriting:
    """One graph that is being changed in place: nodes put first, nodes changed, weights replaced."""

    def __init__(self, model: onnx.ModelProto, given: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._first: list[onnx.NodeProto] = []
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._after: dict[int, list[onnx.NodeProto]] = {}
        self._gone: set[str] = set()
        self._added: list[onnx.TensorProto] = []
        self._skipped: set[int] = set()
        self._names = {item.name for item in given.graph.initializer}
        self.microsoft = False
        self.blocks = False
        self.operators: set[str] = set()

    def store_half(self, weight: Weight, tensor: onnx.TensorProto) -> None:
        """Store float16 and cast: what reads the weight reads float32 as before."""
        array = numpy_helper.to_array(tensor)
        name = self._add(f"{weight.name}.fp16", array.astype(np.float16))
        self._replace(weight, [helper.make_node("Cast", [name], [weight.name], f"{weight.name}.Cast", to=1)])

    def store_widened(self, weight: Weight, codes: Codes) -> None:
        """Store 8 bits, and the nodes that make float32 of them when a file is loaded."""
        name = weight.name
        blocks = codes.scales.shape[1]
        integers = self._add(f"{name}.int8", padded(codes).reshape(weight.outputs, blocks, codes.block))
        scales = self._add(f"{name}.scales", codes.scales[..., None])
        # (N, blocks, block) to (N, K), to the weight's shape with rows in the place of columns, to the weight.
        rows = (*weight.shape[:-2], weight.shape[-1], weight.shape[-2]) if weight.swapped else weight.shape
        steps: list[tuple[str, list[Array], dict[str, Any]]] = [
            ("Cast", [], {"to": onnx.TensorProto.FLOAT}),
            ("Mul", [], {}),
        ]
        if blocks * codes.block > weight.depth:
            steps.append(("Reshape", [np.array([weight.outputs, -1])], {}))
            steps.append(("Slice", [np.array([0]), np.array([weight.depth]), np.array([1])], {}))
        steps.append(("Reshape", [np.array(rows)], {}))
        if weight.swapped:
            axes = range(len(rows))
            steps.append(("Transpose", [], {"perm": [*axes[:-2], axes[-1], axes[-2]]}))
        nodes: list[onnx.NodeProto] = []
        given = integers
        for place, (op_type, sizes, attributes) in enumerate(steps):
            last = place == len(steps) - 1
            result = name if last else f"{name}.{op_type}.{place}"
            more = [self._add(f"{name}.shape.{place}.{at}", array) for at, array in enumerate(sizes)]
            more = [scales] if op_type == "Mul" else more
            node = helper.make_node(op_type, [given, *more], [result], f"{name}.{op_type}.{place}", **attributes)
            nodes.append(node)
            given = result
        self._replace(weight, nodes)

    def store_dequantised(self, weight: Weight, codes: Codes) -> None:
        """Store whole numbers behind a DequantizeLinear whose result has the name of the weight."""
        import ml_dtypes

        whole = weight.stored(codes.integers)
        outputs = whole.ndim - 1 if weight.swapped else whole.ndim - 2
        attributes: dict[str, int] = {"axis": outputs}
        scales = codes.scales.reshape(-1)
        if codes.bits == 4:
            whole = whole.astype(ml_dtypes.int4)
            scales = codes.scales.T if weight.swapped else codes.scales
            attributes = {"axis": whole.ndim - 2 if weight.swapped else whole.ndim - 1, "block_size": codes.block}
            self.blocks = True
        inputs = [
            self._add(f"{weight.name}.int{codes.bits}", whole),
            self._add(f"{weight.name}.scales", np.ascontiguousarray(scales)),
        ]
        node = helper.make_node("DequantizeLinear", inputs, [weight.name], f"{weight.name}.DequantizeLinear")
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._replace(weight, [node])

    def store_experts(self, weight: Weight, codes: Codes) -> None:
        """Store bytes (…,G,R,N) and scales (…,G,N) as the operators with packed experts read them."""
        per_byte, groups = 8 // codes.bits, codes.scales.shape[1]
        numbers: Array = (weight.stored(codes.integers).astype(np.int16) + (1 << (codes.bits - 1))).astype(np.uint8)
        if per_byte == 2:
            numbers = numbers[..., 0::2, :] | (numbers[..., 1::2, :] << 4)
        lead, outputs = weight.shape[:-2], weight.shape[-1]
        names = [
            self._add(
                f"{weight.name}.int{codes.bits}", numbers.reshape(*lead, groups, codes.block // per_byte, outputs)
            ),
            self._add(
                f"{weight.name}.scales",
                np.ascontiguousarray(codes.scales.reshape(*lead, outputs, groups).swapaxes(-1, -2)),
            ),
        ]
        for use in weight.uses:
            node = self._graph.node[use.node]
            inputs = [part for name in node.input for part in (names if name == weight.name else [name])]
            del node.input[:]
            node.input.extend(inputs)
            node.op_type = use.packed
            node.attribute.append(helper.make_attribute("per_byte", per_byte))
            self.operators.add(use.packed)
        self._gone.add(weight.name)

    def store_dynamic(self, weight: Weight, codes: Codes) -> None:
        """Multiply in whole numbers; activations are quantised at each call."""
        whole = self._add(f"{weight.name}.int8", weight.stored(codes.integers))
        scales = self._add(f"{weight.name}.scales", codes.scales.reshape(-1))
        for use in weight.uses:
            self._change(use, "DynamicQuantizeMatMul", [whole, scales], {})
        self._gone.add(weight.name)

    def store_blocks(self, weight: Weight, codes: Codes, activations: Activations) -> None:
        """Store blocks as ONNX Runtime's MatMulNBits and GatherBlockQuantized take them; both can share one table."""
        packed = packed_blocks(codes)
        rows = len(packed)
        both = {"product", "table"} <= weight.kinds
        # A table alone is stored as it is read: OpenVINO takes no other.
        whole = packed if "product" in weight.kinds else packed.reshape(rows, -1)
        shared = self._add(f"{weight.name}.int{codes.bits}", whole)
        scales = self._add(f"{weight.name}.scales", codes.scales)
        attributes = {"bits": codes.bits, "block_size": codes.block}
        table = shared
        if both:
            table = f"{weight.name}.rows"
            shape = self._add(f"{weight.name}.rows.shape", np.array([rows, -1], np.int64))
            self._first.append(helper.make_node("Reshape", [shared, shape], [table], f"{weight.name}.Reshape"))
        for use in weight.uses:
            if use.kind == "product":
                sizes = {"K": weight.depth, "N": rows, **attributes}
                sizes |= {"accuracy_level": INT8_ACTIVATIONS} if activations == "int8" else {}
                self._change(use, "MatMulNBits", [shared, scales], sizes)
            else:
                node = self._graph.node[use.node]
                indices = node.input[1]
                more = {"gather_axis": 0, "quantize_axis": 1, **attributes}
                self._become(node, "GatherBlockQuantized", [table, indices, scales], more)
        self._gone.add(weight.name)

    def _change(self, use: Use, op_type: str, weight: list[str], attributes: dict[str, int]) -> None:
        """Make a product with a weight another operator; a Gemm's addend is added behind it."""
        node = self._graph.node[use.node]
        addend = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        if use.transpose >= 0:
            self._skipped.add(use.transpose)
        self._become(node, op_type, [node.input[0], *weight], attributes)
        if addend:
            result, product = node.output[0], f"{node.output[0]}.product"
            node.output[0] = product
            added = helper.make_node("Add", [product, addend], [result], f"{node.name}.Add")
            self._after.setdefault(use.node, []).append(added)

    def _become(self, node: onnx.NodeProto, op_type: str, inputs: list[str], attributes: dict[str, int]) -> None:
        del node.input[:], node.attribute[:]
        node.op_type, node.domain = op_type, MICROSOFT
        node.input.extend(inputs)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.microsoft = True

    def _add(self, name: str, array: Array) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        self._added.append(numpy_helper.from_array(array, name))
        return name

    def _replace(self, weight: Weight, nodes: list[onnx.NodeProto]) -> None:
        """Let nodes make what was stored."""
        self._first += nodes
        self._gone.add(weight.name)

    def finish(self) -> None:
        """Put the nodes and the weights in their places."""
        nodes = list(self._first)
        for index, node in enumerate(self._graph.node):
            if index not in self._skipped:
                nodes += [*self._before.get(index, ()), node, *self._after.get(index, ())]
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(kept)
        stored = [item for item in self._graph.initializer if item.name not in self._gone]
        stored = [onnx.TensorProto.FromString(item.SerializeToString()) for item in (*stored, *self._added)]
        del self._graph.initializer[:]
        self._graph.initializer.extend(stored)
        known = [item for item in self._graph.value_info if item.name not in self._gone]
        known = [onnx.ValueInfoProto.FromString(item.SerializeToString()) for item in known]
        del self._graph.value_info[:]
        self._graph.value_info.extend(known)


def copied_without(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return a copy of a graph that lacks some weights, which are not copied: they may be nearly all that it holds."""
    copy = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            for part, content in value.ListFields():
                if part.name != "initializer":
                    _merge(copy.graph, part.name, content)
            copy.graph.initializer.extend(item for item in value.initializer if item.name not in names)
        else:
            _merge(copy, field.name, value)
    return copy


def _merge(message: Any, name: str, value: Any) -> None:
    """Set a field of a message, whether it is a number, a message or several of one."""
    if hasattr(value, "MergeFrom"):
        getattr(message, name).MergeFrom(value)
    else:
        setattr(message, name, value)


def packed_blocks(codes: Codes) -> Array:
    """Return whole numbers as (N, blocks, bytes of a block) uint8: shifted above 0, of 4 bits the low half first."""
    middle = 1 << (codes.bits - 1)
    packed: Array = (padded(codes).astype(np.int16) + middle).astype(np.uint8)
    if codes.bits == 4:
        packed = packed[:, 0::2] | (packed[:, 1::2] << 4)
    return np.ascontiguousarray(packed.reshape(*codes.scales.shape, -1))


def padded(codes: Codes) -> Array:
    """Return whole numbers (N, blocks * block): zeros fill the last block."""
    rows, depth = codes.integers.shape
    numbers = np.zeros((rows, codes.scales.shape[1] * codes.block), np.int8)
    numbers[:, :depth] = codes.integers
    return numbers


def _add_bodies(model: onnx.ModelProto, operators: Collection[str]) -> None:
    """Add the bodies of operators, and drop those that no node calls any more."""
    from hsm_operators import OPERATORS

    if not operators:
        return
    version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    model.functions.extend(OPERATORS[name].function(version) for name in sorted(operators))
    called = {(node.domain, node.op_type) for node in nodes_of(model.graph.node)}
    called |= {(node.domain, node.op_type) for body in model.functions for node in nodes_of(body.node)}
    kept = [body for body in model.functions if (body.domain, body.name) in called]
    kept = [onnx.FunctionProto.FromString(body.SerializeToString()) for body in kept]
    del model.functions[:]
    model.functions.extend(kept)


def _import(model: onnx.ModelProto, domain: str, version: int) -> None:
    if all(entry.domain != domain for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(domain, version))


def _require_blocks(model: onnx.ModelProto) -> None:
    """Raise the version of ONNX's operators, and of the format, to those that know 4 bits in blocks."""
    graphs = [(model.graph.node, model.opset_import), *((body.node, body.opset_import) for body in model.functions)]
    for nodes, imports in graphs:
        entry = next((item for item in imports if item.domain in ("", "ai.onnx")), None)
        if entry is None or entry.version >= _BLOCKWISE_OPSET:
            continue
        for name in sorted({node.op_type for node in nodes_of(nodes) if node.domain in ("", "ai.onnx")}):
            before, after = (
                onnx.defs.get_schema(name, version).since_version for version in (entry.version, _BLOCKWISE_OPSET)
            )
            if before != after and name not in _UNCHANGED:
                raise BadInputError(
                    f"4 bits need version {_BLOCKWISE_OPSET} of ONNX's operators, in which {name} is another one",
                    "use --dialect ort, or export the model for a later version",
                )
        entry.version = _BLOCKWISE_OPSET
    model.ir_version = max(model.ir_version, _BLOCKWISE_IR)
