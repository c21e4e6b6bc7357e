"""The operators that a file uses: those that are registered, and others as the file describes them.

A file that was exported with somebody's own operators says what they are, so that another machine, where nobody
registered them, can still count their work and watch what they choose.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from hsm_operators import DOMAIN, Attribute, Cost, Dimension, Operator, Port, Routing, RowRange, Rule, State, find
from hsm_operators.operator import base_name

from ..errors import BadInputError

if TYPE_CHECKING:
    import onnx

KEY = "operators"
METADATA = f"hsm_export.{KEY}"
_LONGEST = 1 << 20
# What a file need not repeat: bodies are in it, and the rest is of kernels and of PyTorch.
_LEFT_OUT = ("body", "loop_free_body", "kernel", "plugin", "arguments", "constant", "evaluations", "ignored")
_PARTS: Mapping[str, type] = {
    "inputs": Port, "outputs": Port, "attributes": Attribute, "dimensions": Dimension, "rules": Rule, "states": State,
}  # fmt: skip


class FileOperators:
    """Finds the operator of a node.

    Args:
        model: the file.

    Raises:
        BadInputError: what the file says of its operators is malformed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        text = next((entry.value for entry in model.metadata_props if entry.key == METADATA), "")
        self._described = described(text) if text else {}

    def find(self, node: onnx.NodeProto) -> Operator | None:
        """Return the operator that a node calls, or None."""
        if node.domain in ("", "ai.onnx"):
            return None
        described = self._described.get((node.domain, base_name(node.op_type)))
        registered = find(node.domain, node.op_type)
        if registered is None or described is None:
            return registered or described
        # A registered one knows more, but may be another version.
        return registered if _signature(registered) == _signature(described) else described

    def nodes(self, graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, Operator]]:
        """Return the operators' nodes of a graph, in its order; those of inner graphs are left out."""
        found = ((node, self.find(node)) for node in graph.node)
        return [(node, operator) for node, operator in found if operator is not None]


def _signature(operator: Operator) -> tuple[Any, ...]:
    ports = [(port.name, port.type, port.shape) for port in (*operator.inputs, *operator.outputs)]
    return ports, [(a.name, a.type) for a in operator.attributes], operator.version


def description(operators: Iterable[Operator]) -> str:
    """Return what a file says of the operators that are not ours, as JSON; "" when it has none."""
    foreign = [operator for operator in operators if operator.domain != DOMAIN]
    entries = [_pruned({k: v for k, v in asdict(operator).items() if k not in _LEFT_OUT}) for operator in foreign]
    return json.dumps(entries, sort_keys=True) if entries else ""


def _pruned(value: Any) -> Any:
    """Return data without the values that are defaults: nothing, and empty text and lists."""
    if isinstance(value, Mapping):
        return {key: _pruned(item) for key, item in value.items() if item not in (None, "", (), [], {})}
    return [_pruned(item) for item in value] if isinstance(value, (list, tuple)) else value


@functools.lru_cache(maxsize=64)
def described(text: str) -> dict[tuple[str, str], Operator]:
    """Return the operators that `description` describes, by domain and name.

    Raises:
        BadInputError: the text is malformed.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"it has {len(text):,} characters")
        operators = [_operator(entry) for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadInputError(f"the metadata {METADATA} is malformed: {error}", "export the file again") from error
    return {(operator.domain, operator.name): operator for operator in operators}


def _operator(entry: dict[str, Any]) -> Operator:
    known = {item.name for item in fields(Operator)} - set(_LEFT_OUT)
    values = {key: value for key, value in entry.items() if key in known}  # a later version may say more
    for key, kind in _PARTS.items():
        values[key] = tuple(_part(kind, item) for item in entry.get(key, ()))
    values["cost"] = Cost(**entry["cost"]) if "cost" in entry else None
    values["routing"] = Routing(**entry["routing"]) if "routing" in entry else None
    values["lengths"] = tuple(entry.get("lengths", ()))
    return Operator(**{"description": "", **values})


def _part(kind: type, entry: dict[str, Any]) -> Any:
    values = dict(entry)
    if kind is Port:
        values["shape"] = tuple(values.get("shape", ()))
        values["rows"] = RowRange(**values["rows"]) if values.get("rows") else None
    return kind(**values)
