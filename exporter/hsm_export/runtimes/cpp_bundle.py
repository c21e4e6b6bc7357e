"""Bundles of any graph, for the C++ runtime to open: no self-test, no tokenizer, weights linked in place of copied."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from ..errors import BadInputError
from ..formats.bundle_manifest import (
    DTYPES,
    FORMAT,
    LIBRARIES_SCHEMA,
    MANIFEST,
    MODEL,
    SCHEMA,
    SELF_TEST,
    FileEntry,
    LibraryEntry,
    Manifest,
    ModelEntry,
    SelfTestEntry,
)
from ..formats.tensor import UNTYPED, Tensor
from ..onnx_model.values import type_name

# The one input of a graph that has none: a bundle's graphs have some.
NOTHING = "hsm_export.nothing"


def write_graph_bundle(
    model: onnx.ModelProto, folder: Path, target: Path, libraries: tuple[LibraryEntry, ...] = ()
) -> None:
    """Write a bundle whose model is a graph.

    Args:
        model: the graph; its external data is not loaded, and it is left as it is.
        folder: the directory that its external data is relative to.
        target: the bundle's folder, which is made.
        libraries: those of operators that are not ours.

    Raises:
        BadInputError: an input or output has a type that bundles do not know.
    """
    from safetensors.numpy import save

    reason = refusal(model)
    if reason:
        raise BadInputError(reason)
    target.mkdir()
    placed = _with_weights(model, folder, target)
    (target / MODEL).write_bytes(placed.SerializeToString())
    (target / SELF_TEST).write_bytes(save({}))
    initialised = {tensor.name for tensor in placed.graph.initializer}
    entry = ModelEntry(
        MODEL,
        None,
        tuple(_tensor(value) for value in placed.graph.input if value.name not in initialised),
        tuple(_tensor(value) for value in placed.graph.output),
    )
    files: dict[str, FileEntry] = {path.name: FileEntry.of(path) for path in sorted(target.iterdir())}
    manifest = Manifest(
        format=FORMAT,
        schema=LIBRARIES_SCHEMA if libraries else SCHEMA,
        hsm_export=version("hsm-export"),
        task="",
        precision="fp32",
        model=entry,
        decode=None,
        engines=(),
        tokenizer=None,
        # The format demands a comparison; nobody makes it.
        self_test=SelfTestEntry(SELF_TEST, {f"model.{entry.outputs[0].name}": 1.0}),
        files=files,
        libraries=libraries,
    )
    (target / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def _with_weights(model: onnx.ModelProto, folder: Path, target: Path) -> onnx.ModelProto:
    """Put external data into the bundle, each file once, under names that a bundle may have; return the new graph."""
    locations = {
        entry.value: None
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    names = {location: f"weights-{index}.data" for index, location in enumerate(locations)}
    if not names and model.graph.input:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    if not changed.graph.input:
        changed.graph.input.append(helper.make_tensor_value_info(NOTHING, TensorProto.FLOAT, [1]))
    for location, name in names.items():
        _link(folder / location, target / name)
    for tensor in changed.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and tensor.data_location == TensorProto.EXTERNAL:
                entry.value = names[entry.value]
    return changed


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that is impossible; a bundle takes no symbolic links."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def refusal(model: onnx.ModelProto) -> str | None:
    """Return why a bundle cannot hold a graph, by what an input or output is; None where it can."""
    for value in (*model.graph.input, *model.graph.output):
        dtype = type_name(value.type)
        if dtype not in DTYPES:
            what = f"is of type {dtype}" if dtype != UNTYPED else "has no type"
            return f"{value.name} {what}, and the C++ runtime takes only tensors of {', '.join(DTYPES)}"
        if 0 in _tensor(value).shape:
            return f"{value.name} never holds an element, and a bundle describes no such tensors"
    return None


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    """Describe an input or output; each dynamic dimension gets a name of its own, so that any size is accepted."""
    dtype = type_name(value.type)
    sizes = enumerate(value.type.tensor_type.shape.dim)
    shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else f"{value.name}.{axis}" for axis, dim in sizes)
    return Tensor(value.name, dtype, shape)
