"""From bytes to a model that can be walked: it parses, its names are text, its claims are those of its size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInputError
from .limits import call_problem, expansion_problem, tensor_problem, tensors_of, value_problem, values_of
from .nodes import nodes_of

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message  # type: ignore[import-untyped]

MAX_BYTES = 2**31  # the format's own limit; larger models keep their weights outside
_SMALL = 64
_ONNX, _MICROSOFT = ("", "ai.onnx"), "com.microsoft"


def parse(path: Path) -> onnx.ModelProto:
    """Read a file, external data left where it is.

    Raises:
        BadInputError: it is not an ONNX model, is damaged, or claims more than it holds.
    """
    import onnx

    if path.stat().st_size >= MAX_BYTES:
        raise _damaged(path, "it has more than 2 GB, which the format does not allow")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise _damaged(path, "it cannot be parsed") from error
    if not model.graph.output or not model.opset_import:
        raise _damaged(path, "it has no graph with outputs")
    try:
        where = _not_text(model)
    except UnicodeDecodeError:
        where = "a name"
    if where:
        raise _damaged(path, f"{where} is not UTF-8 text")
    for tensor in tensors_of(model):
        if problem := tensor_problem(tensor):
            raise _damaged(path, f"the tensor {tensor.name or 'of a node'} {problem}")
    if problem := value_problem(model):
        raise _damaged(path, problem)
    if problem := expansion_problem(model):
        raise BadInputError(f"{path}: {problem}", "export it again without nested functions")
    for value in values_of(model):
        _forget_negative_sizes(value.type)
    return model


def _forget_negative_sizes(of: onnx.TypeProto) -> None:
    """Make the dimensions dynamic that PaddlePaddle's converter, among others, writes as -1."""
    kind = of.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        _forget_negative_sizes(getattr(of, kind).elem_type)
    elif kind in ("tensor_type", "sparse_tensor_type"):
        for dim in getattr(of, kind).shape.dim:
            if dim.dim_value < 0:
                dim.ClearField("dim_value")


def _set_apart_unknown(model: onnx.ModelProto) -> None:
    """Move operators that ONNX Runtime adds to ONNX's own domain to its own one, of which the checker knows nothing."""
    from onnx import defs, helper

    nodes = [node for node in nodes_of(model.graph.node) if node.domain in _ONNX and not defs.has(node.op_type)]
    known = _added_by_onnx_runtime() if nodes else set()
    for node in nodes:
        if node.op_type in known:
            node.domain = _MICROSOFT
            if all(item.domain != _MICROSOFT for item in model.opset_import):
                model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))


def _added_by_onnx_runtime() -> set[str]:
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        return set()
    return {schema.name for schema in state.get_all_operator_schema() if schema.domain in _ONNX}


def checker_problem(model: onnx.ModelProto) -> str | None:
    """Return what the ONNX checker says against a parsed model, on one line; None for nothing.

    Outputs may lack types and shapes, which runtimes find out; weights are left out, because `parse` checks them.
    """
    import onnx

    light = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    _set_apart_unknown(light)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    known = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if len(tensor.dims) <= 1 and sum(tensor.dims) <= _SMALL and tensor.data_location != tensor.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for value in (*graph.input, *graph.output):
        _complete(value, onnx.TensorProto.FLOAT if value.name not in known else 0)
    try:
        onnx.checker.check_model(light)
    except Exception as error:  # ValidationError, and what the bindings raise
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    return call_problem(model)


def _complete(value: onnx.ValueInfoProto, default: int) -> None:
    """Give a value the type and shape that the checker asks for."""
    kind = value.type.WhichOneof("value")
    if kind is None and default:
        value.type.tensor_type.elem_type = default
    if kind in (None, "tensor_type"):
        tensor = value.type.tensor_type
        if not tensor.elem_type and default:
            tensor.elem_type = default
        if tensor.elem_type:
            tensor.shape.SetInParent()


def _damaged(path: Path, why: str) -> BadInputError:
    return BadInputError(f"{path} is not a whole ONNX file: {why}", "export it again")


def _not_text(message: Message) -> str | None:
    """Return the first text field of a message, at any depth, that is not text: protobuf returns bytes for those."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            items = (value,) if isinstance(value, (str, bytes)) else value
            if not all(isinstance(item, str) for item in items):
                return str(field.full_name).removeprefix("onnx.")
        elif field.type == field.TYPE_MESSAGE:
            items = (value,) if hasattr(value, "ListFields") else value
            for item in items:
                if found := _not_text(item):
                    return found
    return None
