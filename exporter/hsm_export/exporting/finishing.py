"""Complete a graph into a file: function bodies, metadata, weights inside or beside."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from ..errors import BadInputError
from ..formats.tensor import InputSpec
from ..torch_model.source_call import KEY as CALL
from ..torch_model.source_call import SourceCall
from . import tracing
from .source import Source

if TYPE_CHECKING:
    import onnx_ir as ir

    from .wide_nodes import WideNodes

EXTERNAL_ABOVE = 256 * 1024 * 1024
_TRACE = "pkg.torch.onnx.stack_trace"
_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul", "MatMulInteger"}


def refuse_quantised(model: ir.Model) -> None:
    """Raise BadInputError when the graph has quantised operators."""
    for node in model.graph.all_nodes():
        if node.op_type in _QUANTISED:
            raise BadInputError(
                f"the model is quantised ({node.op_type} at {node.name}), which is not supported",
                "export the float32 model",
            )


def refuse_narrow(model: ir.Model, name: str) -> None:
    """Raise BadInputError when a module in float32 computes in half precision: few runtimes could run such a file.

    Args:
        model: a traced module, with the tracer's notes.
        name: what to call it.
    """
    import onnx_ir as ir

    nodes = list(model.graph.all_nodes())
    for index, node in enumerate(nodes):
        narrow = [value.dtype for value in node.outputs if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)]
        if narrow and node.op_type not in ("Cast", "CastLike", "Identity"):
            kind = "bfloat16" if ir.DataType.BFLOAT16 in narrow else "float16"
            raise BadInputError(
                f"{name} is float32, but its forward computes in {kind}{_where(nodes[index:])}",
                "leave torch.autocast and .half() out of forward; `precision` chooses the type of the file",
            )


def _where(nodes: Sequence[ir.Node]) -> str:
    """Say at which line of the user's the first node was made; the tracer forgets those inside torch.autocast."""
    for index, node in enumerate(nodes):
        lines = re.findall(r'File "([^"<]+)", line (\d+), in ', node.metadata_props.get(_TRACE, ""))
        own = [(file, line) for file, line in lines if "/torch/" not in file and file != tracing.__file__]
        if own:
            return f" {'before' if index else 'at'} line {own[-1][1]} of {own[-1][0]}"
    return ""


def _described(spec: InputSpec) -> dict[str, Any]:
    """Return an input as data; what is only sometimes known is left out where it is not."""
    optional = ("counts", "indexes", "seen", "usual")
    return {name: value for name, value in asdict(spec).items() if value is not None or name not in optional}


def describe(
    model: ir.Model,
    source: Source,
    inputs: Sequence[InputSpec],
    call: SourceCall,
    precision: str,
    plan: WideNodes | None = None,
) -> None:
    """Write who made the file from what into it; nothing that differs from run to run."""
    from hsm_models.config import ModelConfig
    from hsm_operators import IR_VERSION, VERSION, find

    from .. import __version__
    from ..onnx_model.file_operators import KEY, description

    model.ir_version = IR_VERSION
    model.producer_name = "hsm-export"
    model.producer_version = __version__
    model.graph.name = source.task or type(source.module).__name__
    values = {
        "version": __version__,
        "opset": str(VERSION),
        "precision": precision,
        "config": source.config or (json.dumps({"max_length": source.max_length}) if source.max_length else ""),
        "source_sha256": source.sha256,
        "task": source.task,
    }
    if source.config:
        parts = ModelConfig.from_json(source.config).parts()
        values["parts"] = json.dumps({name: part.to_data() for name, part in parts.items()})
    if source.state is not None:
        values |= {"decode": "1", "state": source.state.to_json()}
    used = {(o.domain, o.name): o for n in model.graph.all_nodes() if (o := find(n.domain, n.op_type)) is not None}
    if foreign := description(used[key] for key in sorted(used)):
        values[KEY] = foreign
    if plan is not None:
        values["precision_plan"] = plan.to_json()
    model.metadata_props.update({f"hsm_export.{key}": value for key, value in values.items()})
    model.metadata_props[CALL] = call.to_json()
    describe_inputs(model, inputs)


def describe_inputs(model: ir.Model, inputs: Sequence[InputSpec]) -> None:
    """Write what is known of the graph's inputs into it."""
    model.metadata_props["hsm_export.inputs"] = json.dumps([_described(spec) for spec in inputs])


def weight_bytes(model: ir.Model) -> int:
    """Return the size of all initialisers in bytes."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def write(model: ir.Model, path: Path, external_data: bool | None) -> Path | None:
    """Write the model; its weights go into `<path>.data` when asked, or above 256 MB.

    Returns:
        The file of external data, if there is one.

    Raises:
        BadInputError: weights above 2 GB cannot stay inside the file.
    """
    import onnx_ir as ir

    for value in model.graph.initializers.values():
        # An initialiser says its type and shape itself; said again, both confuse quantisers.
        value.type, value.shape = None, None
    size = weight_bytes(model)
    beside = size > EXTERNAL_ABOVE if external_data is None else external_data
    if not beside:
        if size >= 2**31 - 2**20:
            raise BadInputError(
                f"{size / 2**30:.1f} GB of weights do not fit into one ONNX file", "leave out --no-external-data"
            )
        ir.save(model, path)
        return None
    data = path.with_name(f"{path.name}.data")
    ir.save(model, path, external_data=data.name)
    return data
