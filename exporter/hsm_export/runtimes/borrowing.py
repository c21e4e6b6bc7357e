"""onnx's Python evaluator with ONNX Runtime in the place of what it lacks: one node at a time, without optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from ..onnx_model.nodes import reads_of
from .runtime import missing_package

Array = NDArray[Any]
_FLOATS = (np.float64, np.float32)


class BorrowingEvaluator(ReferenceEvaluator):
    """Evaluates a model; nodes that onnx's evaluator does not know, or fails on, run in ONNX Runtime.

    Attributes:
        borrowed: says of which nodes ONNX Runtime's float32 kernels had to be taken for float64 ones.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.borrowed: set[str] = set()
        super().__init__(*arguments, **options)

    def _init(self) -> None:
        super()._init()
        versions = [helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        self.rt_nodes_ = _with_forgetting([_Guarded(node, versions, self.borrowed) for node in self.rt_nodes_], self)

    def _load_impl(self, node: onnx.NodeProto, input_types: Any = None) -> Any:
        try:
            return super()._load_impl(node, input_types)
        except (NotImplementedError, RuntimeError) as error:
            if missing_package("onnxruntime", "onnxruntime"):
                raise
            return _Missing if input_types is not None or not _is_context_dependent(error) else _raised(error)


class _Forgetting:
    """Stands behind the last node that reads some results, and drops them: the evaluator itself keeps all of them."""

    op_type = "Forgetting"
    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    has_linked_attribute = False

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def need_context(self) -> bool:
        """Say that the evaluator shall pass what it holds."""
        return True

    def run(self, *, context: dict[str, Any], **_: Any) -> tuple[()]:
        """Drop the results from what the evaluator holds."""
        for name in self._names:
            context.pop(name, None)
        return ()


def _with_forgetting(nodes: list[Any], evaluator: ReferenceEvaluator) -> list[Any]:
    """Return the nodes of a graph, each followed by the dropping of what nobody reads afterwards."""
    kept = {"", *evaluator.output_names}
    seen, ends = set[str](), list[list[str]]()
    for node in reversed(nodes):
        touched = {*reads_of(node.onnx_node), *node.onnx_node.output}
        ends.append(sorted(touched - seen - kept))
        seen |= touched
    made = {name for node in nodes for name in node.onnx_node.output}
    found: list[Any] = []
    for node, names in zip(nodes, reversed(ends), strict=True):
        found.append(node)
        dropped = [name for name in names if name in made]
        found += [_Forgetting(dropped)] if dropped else []
    return found


class _Missing(OpRun):
    """An operator that the evaluator has no implementation of."""

    def _run(self, *_inputs: Any, **_attributes: Any) -> tuple[Any, ...]:
        raise NotImplementedError(f"onnx's evaluator has no {self.onnx_node.op_type}")


def _is_context_dependent(error: Exception) -> bool:
    return type(error).__name__ == "RuntimeContextError"


def _raised(error: Exception) -> Any:
    raise error


class _Guarded:
    """A node of the evaluator, and ONNX Runtime where that fails."""

    def __init__(self, node: Any, versions: list[onnx.OperatorSetIdProto], borrowed: set[str]) -> None:
        self._node = node
        self._versions = versions
        self._borrowed = borrowed
        self._sessions: dict[tuple[Any, ...], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def run(self, *inputs: Any, **options: Any) -> Any:
        """Run the node; whatever the evaluator raises comes through where ONNX Runtime does not run it either."""
        try:
            return self._node.run(*inputs, **options)
        except Exception as error:
            try:
                return self._in_onnx_runtime(inputs, options.get("context") or {})
            except Exception:
                if isinstance(self._node, _Missing):
                    raise
                raise error from None  # the evaluator says more of its own node

    def _in_onnx_runtime(self, inputs: tuple[Any, ...], context: Mapping[str, Any]) -> tuple[Any, ...]:
        """Run the node alone: in its own types, or in float32 where there is no kernel for doubles."""
        node = self._node.onnx_node
        names = list(dict.fromkeys(reads_of(node)))
        known = {**context, **dict(zip(node.input, inputs, strict=True))}
        inputs = tuple(known[name] for name in names)
        doubles = any(isinstance(item, np.ndarray) and item.dtype == np.float64 for item in inputs)
        for kind in _FLOATS if doubles else (None,):
            given = {name: _typed(item, kind) for name, item in zip(names, inputs, strict=True) if item is not None}
            try:
                outputs = self._session(given).run(None, given)
            except Exception:
                if not doubles or kind is np.float32:
                    raise
                continue
            if doubles and kind is np.float32:
                self._borrowed.add(f"{node.name or node.output[0]} ({node.op_type})")
                outputs = [_typed(item, np.float64) for item in outputs]
            written = iter(outputs)
            return tuple(next(written) if name else None for name in node.output)
        raise AssertionError("the last type returns or raises")

    def _session(self, given: Mapping[str, Any]) -> Any:
        import onnxruntime

        key = tuple((str(item.dtype), item.shape) for item in given.values())
        if key not in self._sessions:
            node = self._node.onnx_node
            types = {name: helper.np_dtype_to_tensor_dtype(item.dtype) for name, item in given.items()}
            values = [helper.make_tensor_value_info(name, types[name], given[name].shape) for name in given]
            results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
            graph = helper.make_graph([node], "node", values, results)
            model = helper.make_model(graph, opset_imports=self._versions, ir_version=10)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            self._sessions[key] = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[key]


def _typed(item: Any, kind: Any) -> Any:
    is_float = isinstance(item, np.ndarray) and item.dtype in (np.float64, np.float32)
    return item.astype(kind) if kind is not None and is_float else item


def borrowed_remark(name: str, nodes: set[str]) -> str:
    """Say of which nodes nobody but ONNX Runtime's own kernels knows the right results."""
    listed = sorted(nodes)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return (
        f"{name}: nobody but ONNX Runtime computes {', '.join(listed[:5])}{more}: its own float32 kernels without "
        "optimisation stand for the right results there, so their own error is not judged"
    )
