"""Damaged and hostile ONNX files, one a kind, made from a small one that is good."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Change = Callable[[onnx.ModelProto], None]


def good_model() -> onnx.ModelProto:
    """Return a file of two nodes: `y = softmax(x @ w)` for x (batch,6)."""
    weight = np.random.default_rng(5).standard_normal((6, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["scores"], name="product"),
            helper.make_node("Softmax", ["scores"], ["y"], name="soft", axis=-1),
        ],
        "good",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _metadata(key: str, value: str) -> Change:
    return lambda model: helper.set_model_props(model, {f"hsm_export.{key}": value})


def _external(**entries: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (tensor,) = model.graph.initializer
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return change


def _weight(**fields: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (tensor,) = model.graph.initializer
        if "rows" in fields:
            tensor.dims[0] = fields["rows"]
        tensor.data_type = fields.get("kind", tensor.data_type)

    return change


def calls(model: onnx.ModelProto, count: int, repeats: int) -> None:
    """Put functions in front of the graph, each of which calls the one before `repeats` times."""
    opsets = [helper.make_opsetid("mine", 1), helper.make_opsetid("", 18)]
    body = [helper.make_node("Neg", ["a"], ["b"])]
    model.functions.append(helper.make_function("mine", "F0", ["a"], ["b"], body, opsets))
    for index in range(1, count):
        names = ["a", *(f"t{step}" for step in range(repeats - 1)), "b"]
        steps = [
            helper.make_node(f"F{index - 1}", [one], [other], domain="mine") for one, other in itertools.pairwise(names)
        ]
        model.functions.append(helper.make_function("mine", f"F{index}", ["a"], ["b"], steps, opsets))
    model.opset_import.append(opsets[0])
    model.graph.node.insert(0, helper.make_node(f"F{count - 1}", ["x"], ["deep"], domain="mine"))


def _constant_in_a_branch(model: onnx.ModelProto) -> None:
    """Add an If whose branch holds a constant that claims more than it has."""
    lying = numpy_helper.from_array(np.ones(2, np.float32), "c")
    lying.dims[0] = 1 << 40
    out = [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)]
    branch = helper.make_graph([helper.make_node("Constant", [], ["o"], value=lying)], "b", [], out)
    chosen = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    model.graph.node.extend(
        [chosen, helper.make_node("If", ["yes"], ["unused"], then_branch=branch, else_branch=branch)]
    )


def _typed(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = 77


def _sequence_of_nothing_known(model: onnx.ModelProto) -> None:
    known = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    known.type.sequence_type.elem_type.tensor_type.elem_type = 99
    model.graph.value_info.append(known)


def _no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


_STATE = {"schema": 2, "tensors": [{"name": 3}], "capacity": None, "rollback": 0, "max_length": 0, "last_logits": False}

# Each with words of the sentence that every command says.
CHANGES: dict[str, tuple[Change, str]] = {
    "no outputs": (_no_outputs, "no graph with outputs"),
    "a weight of 2**40 rows": (_weight(rows=1 << 40), "the tensor w has 96 bytes, its shape"),
    "a weight with a row less": (_weight(rows=5), "has 96 bytes, its shape [5, 4] needs 80 bytes"),
    "a weight of negative size": (_weight(rows=-6), "the tensor w has the negative size -6"),
    "a weight of no known type": (_weight(kind=77), "the element type 77, which ONNX does not define"),
    "an output of no known type": (_typed, "the value y has the element type 77, which ONNX does not define"),
    "a sequence of no known type": (_sequence_of_nothing_known, "the value s has the element type 99"),
    "a constant in a branch": (_constant_in_a_branch, "the tensor c has 8 bytes"),
    "functions that double": (lambda model: calls(model, 40, 2), "more than 500,000 are not read"),
    "functions in a row": (lambda model: calls(model, 3000, 1), "call each other 3000 deep"),
    "data elsewhere": (_external(location="../w.bin"), "outside its own directory"),
    "data in the root": (_external(location="/etc/passwd"), "outside its own directory"),
    "data nowhere": (_external(), "outside its own directory"),
    "data in a name too long": (_external(location="w" * 5000), "cannot be read"),
    "data missing": (_external(location="w.bin"), "w.bin is missing"),
    "data before the file": (_external(location="w.bin", offset="-8"), "malformed place"),
    "data at no number": (_external(location="w.bin", offset="eight"), "malformed place"),
    "data too short": (_external(location="w.bin", length="8"), "malformed place"),
    "precision fp7": (_metadata("precision", "fp7"), "hsm_export.precision is 'fp7'"),
    "decode maybe": (_metadata("decode", "maybe"), "hsm_export.decode is 'maybe'"),
    "config nested deep": (_metadata("config", "[" * 200_000), "hsm_export.config is not valid JSON"),
    "config a list": (_metadata("config", "[1]"), "hsm_export.config is not an object"),
    "length a text": (_metadata("config", '{"max_length": "long"}'), "hsm_export.config is not an object whose"),
    "inputs a number": (_metadata("inputs", "3"), "hsm_export.inputs is not a list"),
    "inputs of another": (_metadata("inputs", '[{"name": "other"}]'), "describes the inputs other"),
    "bounds of text": (_metadata("inputs", '[{"name": "x", "high": "9"}]'), "hsm_export.inputs is not a list"),
    "parts a list": (_metadata("parts", "[]"), "hsm_export.parts is not an object"),
    "operators nested deep": (_metadata("operators", "[" * 200_000), "hsm_export.operators is malformed"),
    "state damaged": (_metadata("state", json.dumps(_STATE)), "description of the state is not valid"),
    "state of tomorrow": (_metadata("state", '{"schema": 99}'), "schema version 99"),
}  # fmt: skip
_BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "no graph with outputs"),
    "text": (lambda _: b"hello, world\n", "cannot be parsed"),
    "cut": (lambda whole: whole[: len(whole) // 2], "cannot be parsed"),
    "a name of bytes": (lambda whole: whole.replace(b"product", b"pro\xff\xfe\xfdt"), "NodeProto.name is not UTF-8"),
    "an input of bytes": (lambda whole: whole.replace(b"scores", b"sc\xffres"), "is not UTF-8 text"),
}
BAD_FILES = (*CHANGES, *_BYTES)


def write_bad_file(kind: str, path: Path) -> str:
    """Write a bad file of a kind and return words of the sentence about it."""
    model = good_model()
    if kind in CHANGES:
        change, words = CHANGES[kind]
        change(model)
        path.write_bytes(model.SerializeToString())
        return words
    damage, words = _BYTES[kind]
    path.write_bytes(damage(model.SerializeToString()))
    return words
