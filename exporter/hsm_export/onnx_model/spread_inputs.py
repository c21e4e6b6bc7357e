"""Inputs that are sequences or optional ones, as tensors: nodes in front of the graph put them together again.

A sequence `s` becomes the inputs `s[0]`, `s[1]`, …, as outputs that are sequences become arrays of such names; an
optional one becomes what it holds. So every runtime is fed with arrays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..errors import BadInputError
from .input_bounds import input_specs
from .model_file import ModelFile

# Elements of a sequence whose length nobody gives.
_LENGTH = 3
_ELEMENT = re.compile(r"(.+)\[(\d+)\]")


def spread(file: ModelFile, inputs: str | Path | Mapping[str, Any] | None = None) -> ModelFile:
    """Return a file whose inputs are all tensors, as far as tensors make them up.

    Args:
        file: the opened file.
        inputs: the user's arrays, or the .npz file that holds them; their names say how long sequences are.
    """
    if all(spec.is_tensor for spec in file.inputs):
        return file
    lengths = _lengths(inputs)
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    nodes: list[onnx.NodeProto] = []
    values: list[onnx.ValueInfoProto] = []
    for value in file.model.graph.input:
        values += _parts(value.name, value.type, lengths, nodes)
    del model.graph.input[:]
    model.graph.input.extend(values)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*nodes, *model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return replace(file, model=model, inputs=input_specs(file.path, model, None))


def _parts(
    name: str, kind: onnx.TypeProto, lengths: Mapping[str, int], nodes: list[onnx.NodeProto]
) -> list[onnx.ValueInfoProto]:
    """Return the inputs that make up a value of that name; add the nodes that do."""
    what = kind.WhichOneof("value")
    if what not in ("sequence_type", "optional_type"):
        return [onnx.ValueInfoProto(name=name, type=kind)]
    inner = getattr(kind, what).elem_type
    if what == "optional_type":
        held = f"{name}.value"
        values = _parts(held, inner, lengths, nodes)
        nodes.append(helper.make_node("Optional", [held], [name], f"{name}/Optional"))
        return values
    elements = [f"{name}[{place}]" for place in range(lengths.get(name, _LENGTH))]
    nodes.append(helper.make_node("SequenceConstruct", elements, [name], f"{name}/SequenceConstruct"))
    if not elements or inner.WhichOneof("value") != "tensor_type":
        raise BadInputError(f"input {name} is a sequence that cannot be made up of tensors", "cut the graph behind it")
    return [onnx.ValueInfoProto(name=element, type=inner) for element in elements]


def _lengths(inputs: str | Path | Mapping[str, Any] | None) -> dict[str, int]:
    """Return how many elements of each sequence the user gives."""
    names: Iterable[str] = inputs if isinstance(inputs, Mapping) else ()
    if isinstance(inputs, (str, Path)) and str(inputs).endswith(".npz"):
        try:
            with np.load(inputs, allow_pickle=False) as archive:
                names = list(archive.files)
        except (OSError, ValueError):  # whoever reads the arrays says what is wrong
            names = ()
    found: dict[str, int] = {}
    for match in filter(None, map(_ELEMENT.fullmatch, names)):
        found[match[1]] = max(found.get(match[1], 0), int(match[2]) + 1)
    return found
