"""States and graphs for CPUs that do not fit the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def identity(inputs: str, outputs: str, dtype: str, shape: list[Any]) -> bytes:
    """Return an ONNX file that hands a tensor on."""
    kind = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}[dtype]
    graph = helper.make_graph(
        [helper.make_node("Identity", [inputs], [outputs])],
        "graph",
        [helper.make_tensor_value_info(inputs, kind, shape)],
        [helper.make_tensor_value_info(outputs, kind, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


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
    names = {"inputs": described["past"], "outputs": described["present"]}
    tensors = {part: [{"name": name, **ring}] for part, name in names.items()}
    add(bundle, "decode.onnx", identity(**names, **ring))
    decode = {"file": "decode.onnx", "cpu_file": None, **tensors, "state": state}
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
