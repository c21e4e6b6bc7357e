"""States and graphs for CPUs that do not fit the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from .changing import add, case, edit

# States; a bundle without a decoding model gets one of a stranger's making


RING: dict[str, Any] = {"dtype": "float32", "shape": ["batch", 4, 8]}


def fits_a_graph(tensor: dict[str, Any]) -> bool:
    """Whether a graph can have a tensor of this type and shape."""
    shape = tensor["shape"]
    return (
        tensor["dtype"] in ("float32", "int64")
        and isinstance(shape, list)
        and all(isinstance(size, str) or (type(size) is int and size > 0) for size in shape)
    )


def decoder(inputs: dict[str, Any], outputs: dict[str, Any]) -> bytes:
    """Return an ONNX file that hands its state on, and whose one logit is the token's id."""
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    last_in, last_out = list(inputs)[-1], list(outputs)[-1]
    graph = helper.make_graph(
        [
            helper.make_node("Identity", [last_in], [last_out]),
            helper.make_node("Cast", ["tokens"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["floats", "axis"], ["logits"]),
        ],
        "graph",
        *(
            [helper.make_tensor_value_info(name, kinds[dtype], shape) for name, (dtype, shape) in side.items()]
            for side in (inputs, outputs)
        ),
        [helper.make_tensor("axis", TensorProto.INT64, [1], [2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


# What a decoding model has besides its state.
READS: dict[str, Any] = {"tokens": ("int64", ["batch", "length"]), "position": ("int64", ["batch"])}
READS["lengths"] = READS["position"]
WRITES: dict[str, Any] = {"logits": ("float32", ["batch", "length", 1])}


def with_state(bundle: Path, **changes: Any) -> None:
    """Give the bundle's decoding model a state of one ring, right but for the changes."""
    tensor = {"name": "0.ring", "dtype": "float32", "shape": ["batch", 4, 8], "spare": 0}
    properties = {"capacity_axis": None, "rollback": "slots", "in_place": True}
    if changes.get("schema") == 1:
        properties = {"layer": 0, "kind": "ring"}
    names = {"past": "past.0.ring", "present": "present.0.ring", "bytes": 128, "bytes_per_token": 0}
    whole = {"schema": 2, "capacity": None, "rollback": 0, "max_length": 0, "last_logits": False}
    state = {**whole, "tensors": [{**tensor, **properties, **names, **changes.pop("tensor", {})}], **changes}
    described = state["tensors"][0]
    ring = {"dtype": described["dtype"], "shape": described["shape"]} if fits_a_graph(described) else RING
    inputs = {**READS, described["past"]: (ring["dtype"], ring["shape"])}
    outputs = {**WRITES, described["present"]: (ring["dtype"], ring["shape"])}
    add(bundle, "decode.onnx", decoder(inputs, outputs))
    sides = {
        part: [{"name": name, "dtype": dtype, "shape": shape} for name, (dtype, shape) in side.items()]
        for part, side in (("inputs", inputs), ("outputs", outputs))
    }
    decode = {"file": "decode.onnx", "cpu_file": None, **sides, "state": state}
    edit(bundle, lambda manifest: manifest.update(decode=decode))


@case
def newer_state(bundle: Path) -> None:
    with_state(bundle, schema=3)


@case
def unknown_kind_of_state(bundle: Path) -> None:
    with_state(bundle, schema=1, tensor={"kind": "pickle"})


@case
def unknown_rollback_of_state(bundle: Path) -> None:
    with_state(bundle, tensor={"rollback": "pickle"})


@case
def state_that_shares_a_buffer_perhaps(bundle: Path) -> None:
    with_state(bundle, tensor={"in_place": "maybe"})


@case
def state_whose_capacity_is_no_axis(bundle: Path) -> None:
    with_state(bundle, tensor={"capacity_axis": 3})


@case
def state_whose_capacity_is_the_batch(bundle: Path) -> None:
    with_state(bundle, tensor={"capacity_axis": 0})


@case
def state_that_grows_elsewhere(bundle: Path) -> None:
    with_state(bundle, tensor={"capacity_axis": 1, "shape": ["batch", 4, "capacity"]})


@case
def state_of_slots_without_an_axis(bundle: Path) -> None:
    with_state(bundle, tensor={"shape": ["batch"]})


@case
def state_without_a_shape(bundle: Path) -> None:
    with_state(bundle, tensor={"shape": []})


@case
def state_of_another_type(bundle: Path) -> None:
    with_state(bundle, tensor={"dtype": "bool"})


@case
def state_that_the_model_lacks(bundle: Path) -> None:
    with_state(bundle, tensor={"name": "1.ring"})


@case
def state_without_a_batch(bundle: Path) -> None:
    with_state(bundle, tensor={"shape": [1, 4, 8]})


@case
def state_of_negative_size(bundle: Path) -> None:
    with_state(bundle, tensor={"shape": ["batch", -4, 8]})


@case
def state_described_twice(bundle: Path) -> None:
    with_state(bundle)
    edit(
        bundle, lambda manifest: manifest["decode"]["state"]["tensors"].append(*manifest["decode"]["state"]["tensors"])
    )


@case
def state_left_out(bundle: Path) -> None:
    with_state(bundle)
    edit(bundle, lambda manifest: manifest["decode"]["state"]["tensors"].clear())


def without_tensor(bundle: Path, side: str, name: str) -> None:
    """Give the bundle a decoding model, of file and manifest, without an input or output that every one has."""
    with_state(bundle)
    model = onnx.load_from_string((bundle / "decode.onnx").read_bytes())
    values = model.graph.input if side == "inputs" else model.graph.output
    values.remove(next(value for value in values if value.name == name))
    add(bundle, "decode.onnx", model.SerializeToString())

    def change(manifest: dict[str, Any]) -> None:
        tensors = manifest["decode"][side]
        tensors.remove(next(tensor for tensor in tensors if tensor["name"] == name))

    edit(bundle, change)


@case
def decoding_without_lengths(bundle: Path) -> None:
    without_tensor(bundle, "inputs", "lengths")


@case
def decoding_without_logits(bundle: Path) -> None:
    without_tensor(bundle, "outputs", "logits")


@case
def decoding_with_one_position(bundle: Path) -> None:
    with_state(bundle)
    edit(bundle, lambda manifest: manifest["decode"]["inputs"][1].update(shape=[]))


@case
def decoding_of_any_vocabulary(bundle: Path) -> None:
    with_state(bundle)
    edit(bundle, lambda manifest: manifest["decode"]["outputs"][0].update(shape=["batch", "length", "vocabulary"]))


@case
def state_is_a_list(bundle: Path) -> None:
    with_state(bundle)
    edit(bundle, lambda manifest: manifest["decode"].update(state=[]))


# Graphs for CPUs


def with_cpu_variant(bundle: Path, name: Any = "model.cpu.onnx") -> None:
    """Give the bundle's model another form for CPUs, described rightly but for the name."""
    add(bundle, "model.cpu.onnx", (bundle / "model.onnx").read_bytes())
    edit(bundle, lambda manifest: manifest["model"].update(cpu_file=name))


@case
def cpu_variant_outside(bundle: Path) -> None:
    with_cpu_variant(bundle, "../model.cpu.onnx")


@case
def cpu_variant_by_another_name(bundle: Path) -> None:
    with_cpu_variant(bundle, "model.onnx")


@case
def cpu_variant_of_another_part(bundle: Path) -> None:
    with_cpu_variant(bundle, "decode.cpu.onnx")


@case
def cpu_variant_is_a_number(bundle: Path) -> None:
    with_cpu_variant(bundle, 1)


@case
def cpu_variant_without_a_name(bundle: Path) -> None:
    with_cpu_variant(bundle, "")


@case
def cpu_variant_that_is_not_listed(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"].update(cpu_file="model.cpu.onnx"))


@case
def cpu_variant_that_is_a_link(bundle: Path) -> None:
    with_cpu_variant(bundle)
    (bundle / "model.cpu.onnx").unlink()
    (bundle / "model.cpu.onnx").symlink_to("model.onnx")


@case
def cpu_variant_left_out(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"].pop("cpu_file"))
