"""A node at fault as a folder of its own: the node, its real inputs, the right outputs, and the command to run it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import BadInputError
from ..files import atomic_directory, replace_directory
from ..onnx_model.metadata import PREFIX

Array = NDArray[Any]

MODEL, INPUTS, EXPECTED = "node.onnx", "inputs.npz", "expected.npz"
# A single node with more weights than a serialised model may hold is left out.
_LARGEST = (1 << 31) - (1 << 20)


def write_repro(
    parent: Path,
    name: str,
    model: onnx.ModelProto,
    folder: Path,
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    *,
    precision: str,
    runtime: str,
) -> tuple[Path, str]:
    """Write a repro and return its folder and the command that runs it.

    Args:
        parent: where repros go; made when it is missing.
        name: of the node.
        model: the node as a model of its own.
        folder: where its external data lies.
        inputs, expected: by tensor name.
        precision: the file's.
        runtime: which one is at fault.

    Raises:
        BadInputError: it cannot be written.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for tensor in whole.graph.initializer:
        if onnx.external_data_helper.uses_external_data(tensor):
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    if whole.ByteSize() > _LARGEST:
        raise BadInputError(f"node {name} is too large for a file of its own")
    del whole.metadata_props[:]
    whole.metadata_props.add(key=f"{PREFIX}precision", value=precision)
    target = parent / _file_name(name)
    _make(parent)
    with atomic_directory(parent) as scratch:
        finished = scratch / target.name
        finished.mkdir()
        onnx.save(whole, str(finished / MODEL))
        _save(finished / INPUTS, inputs)
        _save(finished / EXPECTED, expected)
        command = _command(target, runtime)
        (finished / "repro.json").write_text(json.dumps({"node": name, "command": command}, indent=2) + "\n", "utf-8")
        replace_directory(finished, target, scratch)
    return target, command


def _command(target: Path, runtime: str) -> str:
    words = ["hsm-export", "diff", str(target / MODEL), "--inputs", str(target / INPUTS)]
    words += ["--reference", str(target / EXPECTED), "--runtimes", runtime]
    return shlex.join(words)


def _file_name(name: str) -> str:
    """Return a node's name as that of a folder; names come from strangers' files."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._")
    return plain[:100] or "node"


def _make(parent: Path) -> None:
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"cannot write {parent}: {error.strerror}", "name another folder") from error


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    named: dict[str, Any] = {key: np.asarray(array) for key, array in arrays.items()}
    np.savez(path, **named)
