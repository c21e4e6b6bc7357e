"""At which node, and through which state, a decoding file departs from itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..onnx_model.nodes import reads_of
from ..runtimes import get
from ..runtimes.runtime import RunContext
from .foreign_state import LENGTH, Reading, StatePair, departs, tail
from .running import quiet

Array = NDArray[Any]
_SIZES = ("Shape", "Size")


def first_departure(reading: Reading, context: RunContext) -> str:
    """Compare a last single step with one call of everything, node by node; return a clause, "" where none is found.

    Tensors of the step are held to the last elements of those of the whole. A node departs where all that it reads
    agrees, its state aside, and what it writes does not.
    """
    graph = context.model.graph
    made = {name: node for node in graph.node for name in node.output if name}
    step, whole = _tensors(reading, context, list(made))
    pasts = {pair.past for pair in reading.pairs}
    sizes = _size_like(graph.node)
    wrong: set[str] = set()
    for node in graph.node:
        outputs = [name for name in node.output if name in step and name in whole]
        # Numbers of tokens are others in a step.
        changed = [name for name in outputs if name not in sizes and not _agrees(step[name], whole[name])]
        if changed and not wrong & set(reads_of(node)):
            state = _state_behind(node, made, pasts)
            pair = next((pair for pair in reading.pairs if pair.past == state), None)
            through = f", which reads the state {pair.text}{_writer(pair, made)}" if pair is not None else ""
            return f"; the first node that departs is {node.name or changed[0]} ({node.op_type}){through}"
        wrong |= set(changed)
    return ""


def _agrees(step: Array, whole: Array) -> bool:
    return step.dtype.kind not in "fiub" or not departs(step, tail(whole, step))


def _tensors(
    reading: Reading, context: RunContext, names: Iterable[str]
) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
    """Return the tensors of a last single step, and of one call of everything, by name."""
    model = onnx.ModelProto()
    model.CopyFrom(context.model)
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    sequence = reading.random(LENGTH)
    with quiet(), get("onnx64").runner(replace(context, model=model)) as runner:

        def call(piece: Array, read: int, state: Mapping[str, Array]) -> Mapping[str, Array]:
            outputs = runner.infer(reading.feed(piece, read, state), check_inputs=False)
            return {name: np.array(array) for name, array in outputs.items()}

        start = reading.start(len(sequence))
        whole = call(sequence, 0, start)
        before = call(sequence[:, :-1], 0, start)
        return call(sequence[:, -1:], LENGTH - 1, reading.carried(before)), whole


def constant_state(model: onnx.ModelProto, pairs: Sequence[StatePair]) -> str:
    """Name a state that no input has a part in, because it was exported as a constant; "" where there is none."""
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output if name}
    inputs = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    for pair in pairs:
        waiting, seen = deque([pair.present]), {pair.present}
        while waiting:
            name = waiting.popleft()
            new = [item for item in (reads_of(made[name]) if name in made else ()) if item not in seen]
            seen.update(new)
            waiting.extend(new)
        if not seen & inputs:
            return f"the state {pair.text} is a constant, which no input has a part in{_writer(pair, made)}"
    return ""


def _size_like(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the tensors that are made of sizes alone."""
    found: set[str] = set()
    others: set[str] = set()
    for node in nodes:
        reads = set(reads_of(node))
        is_size = node.op_type in _SIZES or (bool(reads & found) and not reads & others)
        (found if is_size else others).update(name for name in node.output if name and (is_size or reads))
    return found


def _writer(pair: StatePair, made: Mapping[str, onnx.NodeProto]) -> str:
    node = made.get(pair.present)
    return f", written by {node.name or pair.present} ({node.op_type})" if node is not None else ""


def _state_behind(node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], pasts: set[str]) -> str:
    """Return the nearest state that a node reads; "" where it reads none."""
    waiting, seen = deque(reads_of(node)), set[str]()
    while waiting:
        name = waiting.popleft()
        if name in pasts:
            return name
        if name not in seen and name in made:
            waiting.extend(reads_of(made[name]))
        seen.add(name)
    return ""
