"""Graphs without control flow: the branch of an If that is taken, and the iterations of a Loop or Scan one by one.

What a run decides is known only from a run, see `control_nodes.watched`; `unrolled` returns the model in which that is
done. Nodes and tensors of an inner graph are named by their path: `branch/then_branch/scores`,
`decoder/body[3]/scores`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .control_nodes import graph_of, ints_of, ran, states_of
from .nodes import graphs_of, nodes_of, opset_of
from .renaming import renamed, rewired

# From this version of ONNX on axes are an input of Unsqueeze.
_AXES_ARE_INPUT = 13
_LAST = np.iinfo(np.int64).max


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model in which every node has a name, inner graphs included."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for graph in graphs_of(changed.graph):
        for index, node in enumerate(graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
    return changed


def unrolled(model: onnx.ModelProto, taken: Mapping[int, Any], most: int) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a model without the control nodes whose doing is known, one level of them.

    Args:
        model: the model; every node has a name.
        taken: by a node's position, what its watched output was.
        most: nodes that may be added; iterations beyond it stay together in one node.

    Returns:
        The model, and the names of control nodes that have to stay: such as a loop without iterations.
    """
    work = _Unrolling(model, most)
    for index, node in enumerate(model.graph.node):
        if index in taken:
            work.replace(node, np.asarray(taken[index]))
        else:
            work.nodes.append(node)
    return work.model(), tuple(work.kept)


@dataclass
class _Unrolling:
    """One level of control flow of one model."""

    source: onnx.ModelProto
    room: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._opset = opset_of(self.source)
        self._weights: dict[str, onnx.TensorProto] = {}
        self._infos: dict[str, onnx.ValueInfoProto] = {}
        self._paths: set[str] = set()

    def model(self) -> onnx.ModelProto:
        made = onnx.ModelProto()
        made.CopyFrom(self.source)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del made.graph.node[:]
        made.graph.node.extend(nodes)
        made.graph.initializer.extend(self._weights.values())
        made.graph.value_info.extend(self._infos.values())
        return made

    def replace(self, node: onnx.NodeProto, seen: np.ndarray[Any, Any]) -> None:
        """Put what a control node does in its place, or keep it where that cannot be said."""
        if node.op_type == "If":
            branch = ran(node, seen)
            path = self._path(node.name)
            self._inline(graph_of(node, branch), f"{path}/{branch}/", {}, list(node.output))
        elif node.op_type == "Loop":
            self._loop(node, len(seen))
        else:
            self._scan(node, seen)

    def _loop(self, node: onnx.NodeProto, count: int) -> None:
        body = graph_of(node, "body")
        carried = list(node.input[2:])
        path = self._path(node.name)
        alone = self._alone(node, body, count)
        if alone == 0:
            return
        condition = node.input[1] if len(node.input) > 1 and node.input[1] else ""
        condition = condition or self._constant(f"{path}/condition", np.array(True))
        stacks: list[list[str]] = [[] for _ in body.output[1 + len(carried) :]]
        finals = _padded(node.output, len(carried) + len(stacks))
        for step in range(alone):
            names = [value.name for value in body.input]
            given = [self._constant(f"{path}/iteration[{step}]", np.array(step, np.int64)), condition, *carried]
            wanted = ["", *(finals[: len(carried)] if step + 1 == count else [""] * len(carried)), *[""] * len(stacks)]
            bound = dict(zip(names, given, strict=True))
            condition, *rest = self._inline(body, f"{path}/body[{step}]/", bound, wanted, f"{path}/body/")
            carried, made = rest[: len(carried)], rest[len(carried) :]
            for stack, name in zip(stacks, made, strict=True):
                stack.append(name)
        later = [""] * len(stacks)
        if alone < count:
            later = self._rest_of_loop(node, path, alone, count, condition, carried, finals)
        for place, (stack, more) in enumerate(zip(stacks, later, strict=True)):
            self._stack(f"{path}/output[{place}]", stack, [more] if more else [], finals[len(carried) + place], 0)

    def _rest_of_loop(
        self,
        node: onnx.NodeProto,
        path: str,
        alone: int,
        count: int,
        condition: str,
        carried: Sequence[str],
        finals: Sequence[str],
    ) -> list[str]:
        """Add the iterations from `alone` on as one node; return its stacked outputs."""
        name = f"{path}/body[{alone}…{count - 1}]"
        rest = onnx.NodeProto()
        rest.CopyFrom(node)
        rest.name = name
        trips = self._constant(f"{name}/trips", np.array(count - alone, np.int64))
        rest.input[:] = [trips, condition, *carried]
        stacked = [f"{name}/output[{place}]" for place in range(len(finals) - len(carried))]
        rest.output[:] = [*finals[: len(carried)], *stacked]
        body = graph_of(rest, "body")
        number = body.input[0].name
        body.input[0].name = f"{name}/number"
        body.initializer.append(numpy_helper.from_array(np.array(alone, np.int64), f"{name}/first"))
        add = helper.make_node("Add", [f"{name}/number", f"{name}/first"], [number], name=f"{name}/Add")
        nodes = [add, *body.node]
        kept = [onnx.NodeProto.FromString(item.SerializeToString()) for item in nodes]
        del body.node[:]
        body.node.extend(kept)
        self.nodes.append(rest)
        self.kept.append(name)
        return stacked

    def _scan(self, node: onnx.NodeProto, shape: np.ndarray[Any, Any]) -> None:
        body = graph_of(node, "body")
        states = states_of(node)
        scanned = list(node.input[states:])
        axes = ints_of(node, "scan_input_axes", len(scanned))
        backwards = ints_of(node, "scan_input_directions", len(scanned))
        count = int(shape[axes[0]])
        path = self._path(node.name)
        alone = self._alone(node, body, count)
        if alone == 0:
            return
        carried = list(node.input[:states])
        stacks: list[list[str]] = [[] for _ in body.output[states:]]
        finals = _padded(node.output, states + len(stacks))
        for step in range(alone):
            inside = f"{path}/body[{step}]/"
            slices = []
            for place, name in enumerate(scanned):
                index = self._constant(f"{inside}index", np.array(step, np.int64))
                if backwards[place]:
                    index = self._constant(f"{inside}index back", np.array(count - 1 - step, np.int64))
                taken = f"{inside}input[{place}]"
                self._add("Gather", [name, index], taken, axis=axes[place])
                slices.append(taken)
            bound = dict(zip((value.name for value in body.input), [*carried, *slices], strict=True))
            wanted = [*(finals[:states] if step + 1 == count else [""] * states), *[""] * len(stacks)]
            rest = self._inline(body, inside, bound, wanted, f"{path}/body/")
            carried = rest[:states]
            for stack, name in zip(stacks, rest[states:], strict=True):
                stack.append(name)
        later = [""] * len(stacks)
        if alone < count:
            later = self._rest_of_scan(node, path, alone, count, carried, finals)
        directions = ints_of(node, "scan_output_directions", len(stacks))
        out_axes = ints_of(node, "scan_output_axes", len(stacks))
        for place, (stack, more) in enumerate(zip(stacks, later, strict=True)):
            before, after = ([], [more]) if not directions[place] else ([more], [])
            ordered = stack if not directions[place] else stack[::-1]
            self._stack(
                f"{path}/output[{place}]",
                ordered,
                [name for name in after if name],
                finals[states + place],
                out_axes[place],
                [name for name in before if name],
            )

    def _rest_of_scan(
        self, node: onnx.NodeProto, path: str, alone: int, count: int, carried: Sequence[str], finals: Sequence[str]
    ) -> list[str]:
        """Add the iterations from `alone` on as one node over the rest of what is scanned."""
        name = f"{path}/body[{alone}…{count - 1}]"
        states = len(carried)
        scanned = list(node.input[states:])
        axes = ints_of(node, "scan_input_axes", len(scanned))
        backwards = ints_of(node, "scan_input_directions", len(scanned))
        parts = []
        for place, tensor in enumerate(scanned):
            first, last = (0, count - alone) if backwards[place] else (alone, _LAST)
            bounds = [
                self._constant(f"{name}/{word}[{place}]", np.array([value], np.int64))
                for word, value in (("starts", first), ("ends", last), ("axes", axes[place]))
            ]
            parts.append(self._add("Slice", [tensor, *bounds], f"{name}/input[{place}]"))
        rest = onnx.NodeProto()
        rest.CopyFrom(node)
        rest.name = name
        rest.input[:] = [*carried, *parts]
        stacked = [f"{name}/output[{place}]" for place in range(len(finals) - states)]
        rest.output[:] = [*finals[:states], *stacked]
        self.nodes.append(rest)
        self.kept.append(name)
        return stacked

    def _alone(self, node: onnx.NodeProto, body: onnx.GraphProto, count: int) -> int:
        """Return how many iterations stand alone; keep the node where none does."""
        size = 1 + sum(1 for _ in nodes_of(body.node)) + len(node.output)
        alone = min(count, self.room // size)
        if alone == 0:
            self.nodes.append(node)
            self.kept.append(node.name)
        self.room -= alone * size
        return alone

    def _stack(
        self, path: str, parts: Sequence[str], after: Sequence[str], result: str, axis: int, before: Sequence[str] = ()
    ) -> None:
        """Join what the iterations gave along an axis that is new to them."""
        if not result:
            return
        wide = []
        for place, part in enumerate(parts):
            single = result if len(parts) + len(after) + len(before) == 1 else f"{path}/part[{place}]"
            if self._opset >= _AXES_ARE_INPUT:
                axes = self._constant(f"{path}/axis", np.array([axis], np.int64))
                wide.append(self._add("Unsqueeze", [part, axes], single, f"{path}/part[{place}]"))
            else:
                wide.append(self._add("Unsqueeze", [part], single, f"{path}/part[{place}]", axes=[axis]))
        if wide != [result]:
            self._add("Concat", [*before, *wide, *after], result, path, axis=axis)

    def _inline(
        self,
        graph: onnx.GraphProto,
        prefix: str,
        bound: Mapping[str, str],
        wanted: Sequence[str],
        weights: str = "",
    ) -> list[str]:
        """Add an inner graph's nodes.

        Args:
            graph: the inner graph.
            prefix: what its names get in front.
            bound: what stands for its inputs.
            wanted: the names that its outputs shall have; "" for any.
            weights: what the names of its weights get in front, where several copies share them.
        """
        made = {name for node in graph.node for name in node.output if name}
        names = dict(bound)
        for value, name in zip(graph.output, wanted, strict=False):
            if name and value.name in made and value.name not in names:
                names[value.name] = name
        for tensor in graph.initializer:
            names[tensor.name] = f"{weights or prefix}{tensor.name}"
            self._weights.setdefault(names[tensor.name], renamed(tensor, names[tensor.name]))
        for name in made:
            names.setdefault(name, f"{prefix}{name}")
        for node in graph.node:
            self.nodes.append(rewired(node, names, prefix))
        for value in (*graph.value_info, *graph.output):
            kind = value.type.tensor_type.elem_type
            if kind and value.name in made:  # shapes may differ from one iteration to the next
                outer = names[value.name]
                self._infos.setdefault(outer, helper.make_tensor_value_info(outer, kind, None))
        results = []
        for place, value in enumerate(graph.output):
            inner, name = names.get(value.name, value.name), wanted[place] if place < len(wanted) else ""
            if name and name != inner:
                self._add("Identity", [inner], name, f"{prefix}output[{place}]")
            results.append(name or inner)
        return results

    def _add(self, operator: str, inputs: Sequence[str], output: str, path: str = "", **attributes: Any) -> str:
        """Add a node of ours, named after its result or after where it stands."""
        node = helper.make_node(operator, list(inputs), [output], name=f"{path or output}/{operator}", **attributes)
        self.nodes.append(node)
        return output

    def _constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        self._weights.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def _path(self, name: str) -> str:
        """Return a node's name, made unlike those of others of the same name."""
        path, number = name, 1
        while path in self._paths:
            number += 1
            path = f"{name}#{number}"
        self._paths.add(path)
        return path


def _padded(names: Sequence[str], count: int) -> list[str]:
    return [*names, *[""] * (count - len(names))]
