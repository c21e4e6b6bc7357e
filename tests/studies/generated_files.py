"""The study of generated files: contributed, quantised and new operators, and graphs inside nodes, healthy and faulty.

    python -m tests.studies.generated_files [--count 100] [--out FILE]

A healthy file that ONNX Runtime runs must be compared and pass. Then the result of one of its nodes is moved in the
runtime alone: the diff must fail, name that node, and say that its kernel is wrong. The last line is a JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.studies.backend_nodes import loads
from tests.studies.planting import Fault, planted
from tests.studies.study import ALARM, PASSED, Record, arguments, compared, counted, run

Array = NDArray[Any]
REQUIRED = 0.95  # of the faults
RUNTIME = "ort"
MICROSOFT = "com.microsoft"
# Two products of more bits saturate in ONNX Runtime's kernels for processors without VNNI: a fault that diff names.
SEVEN_BITS = 63
NEWEST = onnx.defs.onnx_opset_version()


class Builder:
    """A graph that is being written; x is (batch, 5, 8) float32.

    Args:
        number: seed of its numbers.
        opset: of the standard operators.
    """

    def __init__(self, number: int, opset: int) -> None:
        self.rng = np.random.default_rng(number)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, array: Any) -> str:
        """Add a weight and return its name."""
        self.weights.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def weight(self, *shape: int) -> str:
        """Add random float32 numbers."""
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32))

    def node(self, operator: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        """Add a node and return its first result."""
        names = [f"t{len(self.nodes)}_{place}" if place else f"t{len(self.nodes)}" for place in range(outputs)]
        name = f"{operator}_{names[0]}"
        self.nodes.append(helper.make_node(operator, list(inputs), names, name, domain=domain, **attributes))
        return names[0]

    def contributed(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node of ONNX Runtime's own operators."""
        return self.node(operator, *inputs, outputs=outputs, domain=MICROSOFT, **attributes)

    def model(self, result: str) -> onnx.ModelProto:
        """Return the model."""
        graph = helper.make_graph(
            self.nodes,
            "generated",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 8])],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            self.weights,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=min(10, onnx.IR_VERSION))


def fused_product(b: Builder, x: str) -> str:
    return b.contributed("FusedMatMul", x, b.weight(8, 8), alpha=0.5)


def gelus(b: Builder, x: str) -> str:
    y = b.contributed("BiasGelu", x, b.weight(8))
    return b.contributed("FastGelu", b.contributed("QuickGelu", b.contributed("Gelu", y), alpha=1.5), b.weight(8))


def skip_norm(b: Builder, x: str) -> str:
    y = b.node("MatMul", x, b.weight(8, 8))
    return b.contributed("SkipLayerNormalization", x, y, b.weight(8), b.weight(8), epsilon=1e-5)


def root_norm(b: Builder, x: str) -> str:
    y = b.node("MatMul", x, b.weight(8, 8))
    return b.contributed("SkipSimplifiedLayerNormalization", x, y, b.weight(8), epsilon=1e-5)


def many_heads(b: Builder, x: str) -> str:
    q, k, v = (b.node("MatMul", x, b.weight(8, 8)) for _ in range(3))
    return b.contributed("MultiHeadAttention", q, k, v, num_heads=2)


def few_bits(b: Builder, x: str) -> str:
    y = b.node("MatMul", x, b.weight(8, 32))
    packed = b.constant(b.rng.integers(0, 256, (8, 1, 16)).astype(np.uint8))
    scales = b.constant((b.rng.random(8) / 16).astype(np.float32))
    return b.contributed("MatMulNBits", y, packed, scales, K=32, N=8, bits=4, block_size=32)


def quantised(b: Builder, x: str) -> str:
    scale, zero = b.constant(np.float32(0.05)), b.constant(np.uint8(128))
    y = b.node("DequantizeLinear", b.node("QuantizeLinear", x, scale, zero), scale, zero)
    weight = b.constant(b.rng.integers(-SEVEN_BITS, SEVEN_BITS + 1, (8, 8)).astype(np.int8))
    factors = b.constant(np.float32(0.01)), b.constant(np.int8(0))
    return b.node("MatMul", y, b.node("DequantizeLinear", weight, *factors))


def dynamic(b: Builder, x: str) -> str:
    q = b.node("DynamicQuantizeLinear", x, outputs=3)
    weight, zero = (
        b.constant(b.rng.integers(-SEVEN_BITS, SEVEN_BITS + 1, (8, 8)).astype(np.int8)),
        b.constant(np.int8(0)),
    )
    product = b.node("Cast", b.node("MatMulInteger", q, weight, f"{q}_2", zero), to=TensorProto.FLOAT)
    return b.node("Mul", product, b.node("Mul", f"{q}_1", b.constant(np.float32(0.02))))


def integer_product(b: Builder, x: str) -> str:
    scale, zero = b.constant(np.float32(0.05)), b.constant(np.uint8(128))
    q = b.node("QuantizeLinear", x, scale, zero)
    weight = b.constant(b.rng.integers(0, 256, (8, 8)).astype(np.uint8))
    y = b.node("QLinearMatMul", q, scale, zero, weight, b.constant(np.float32(0.01)), zero, scale, zero)
    return b.node("DequantizeLinear", y, scale, zero)


def _inner(name: str, operators: Sequence[str], source: str) -> onnx.GraphProto:
    nodes, value = [], source
    for place, operator in enumerate(operators):
        nodes.append(helper.make_node(operator, [value], [f"{name}{place}"], f"{operator}_{name}{place}"))
        value = f"{name}{place}"
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)])


def branches(b: Builder, x: str) -> str:
    y = b.node("MatMul", x, b.weight(8, 8))
    total = b.node("ReduceSum", y, keepdims=0)
    condition = b.node("Greater", total, b.constant(np.float32(-1e6)))
    inner = {
        "then_branch": _inner("a", ("Tanh", "Exp"), y),
        "else_branch": _inner("o", ("Neg",), y),
    }
    return b.node("Sigmoid", b.node("If", condition, **inner))


def scanned(b: Builder, x: str) -> str:
    state, row, after = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("s", "r", "n"))
    out = helper.make_tensor_value_info("u", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Add", ["s", "r"], ["m"], "Add_m"),
        helper.make_node("Tanh", ["m"], ["n"], "Tanh_n"),
        helper.make_node("Identity", ["n"], ["u"], "Identity_u"),
    ]
    body = helper.make_graph(nodes, "step", [state, row], [after, out])
    start = b.node("ReduceSum", x, b.constant(np.int64([1])), keepdims=0)
    scan = b.node("Scan", start, x, outputs=2, body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1])
    return b.node("Mul", f"{scan}_1", b.weight(8))


def standard_attention(b: Builder, x: str) -> str:
    q, k, v = (b.node("MatMul", x, b.weight(8, 8)) for _ in range(3))
    return b.node("Attention", q, k, v, q_num_heads=2, kv_num_heads=2)


def root_mean(b: Builder, x: str) -> str:
    return b.node("Swish", b.node("RMSNormalization", x, b.weight(8), axis=-1))


# What makes a graph, and the opsets that it is for.
KINDS: tuple[tuple[Callable[[Builder, str], str], tuple[int, ...]], ...] = (
    *((kind, (17, 21)) for kind in (fused_product, gelus, skip_norm, root_norm, many_heads, few_bits)),
    *((kind, (13, 19, 21)) for kind in (quantised, dynamic, integer_product)),
    *((kind, (18, 23)) for kind in (branches, scanned)),
    *((kind, (24, NEWEST)) for kind in (standard_attention, root_mean)),
)


def written(number: int) -> tuple[str, onnx.ModelProto, list[tuple[str, str]]]:
    """Return the kind of a file, the file, and its nodes that may be faulty, with their first results."""
    kind, opsets = KINDS[number % len(KINDS)]
    builder = Builder(number, opsets[number // len(KINDS) % len(opsets)])
    result = kind(builder, "x")
    result = builder.node("Add", builder.node("MatMul", result, builder.weight(8, 4)), builder.weight(4))
    nodes = [(node.name, node.output[0]) for node in builder.nodes]
    return f"{kind.__name__} {builder.opset}", builder.model(result), nodes


def examined(number: int) -> Record:
    """Compare a healthy file, then with a fault in one of its nodes."""
    kind, model, nodes = written(number)
    if not loads(model):
        return {"kind": kind, "end": PASSED, "said": "ONNX Runtime does not load it", "loaded": False}
    feed = {"x": np.random.default_rng(number).standard_normal((3, 5, 8)).astype(np.float32)}
    with tempfile.TemporaryDirectory(prefix="hsm-study-") as folder:
        path = Path(folder) / "m.onnx"
        onnx.save(model, str(path))
        record = {"kind": kind, "loaded": True, **compared(path, (RUNTIME,), inputs=feed)}
        if record["end"] != PASSED:
            return record
        node, tensor, array = _faulty(model, nodes, feed, number)
        pattern = np.zeros(array.shape)
        pattern[tuple(size // 2 for size in array.shape)] = 0.5 + 0.5 * np.abs(array).max()
        with planted({RUNTIME: Fault(tensor, "float32", pattern)}):
            fault = compared(path, (RUNTIME,), inputs=feed)
    named = fault["nodes"][0] if fault.get("nodes") else None
    word = fault["words"][0] if fault.get("words") else None
    # A node that holds graphs has the fault where its inner node has it; what ONNX Runtime joins is told as a fusion.
    right = named is not None and (named == node or named.startswith(f"{node}/"))
    found = fault["end"] == ALARM and right and word in ("wrong kernel", "fusion")
    return record | {"fault": found, "planted": node, "named": named, "word": word, "fault_said": fault["said"]}


def _faulty(
    model: onnx.ModelProto, nodes: Sequence[tuple[str, str]], feed: dict[str, Array], number: int
) -> tuple[str, str, Array]:
    """Return a node with a result in float32, the tensor, and what ONNX Runtime makes of it."""
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {value.name for value in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=tensor) for _, tensor in nodes if tensor not in known)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    arrays = dict(zip(names, session.run(names, feed), strict=True))
    choices = [(node, tensor) for node, tensor in nodes if arrays[tensor].dtype == np.float32 and arrays[tensor].ndim]
    node, tensor = choices[number % len(choices)]
    return node, tensor, arrays[tensor]


def main() -> int:
    """Run the study and print what came of it."""
    options = arguments(__doc__, "generated_files.jsonl", count=100)

    def one(number: int) -> Callable[[], Record]:
        return lambda: examined(number)

    records = run(options.out, [(str(number), one(number)) for number in range(options.count)], options.until)
    bad = [record for record in records if record["end"] != PASSED]
    faults = [record for record in records if "fault" in record]
    found = sum(record["fault"] for record in faults)
    for record in faults:
        if not record["fault"]:
            print(f"{record['case']} {record['kind']}: {record['planted']}, named {record['named']}, {record['word']}")
    loaded = sum(bool(record.get("loaded", True)) for record in records)
    print(json.dumps(counted(records, loaded=loaded, wrong=len(bad), faults=len(faults), named=found)))
    return 1 if bad or found < REQUIRED * len(faults) or not faults else 0


if __name__ == "__main__":
    sys.exit(main())
