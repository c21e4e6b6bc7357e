"""A node at fault as a folder, which shows the same fault again."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.exporter.diffing.plain_models import chain, rows
from tests.exporter.diffing.synthetic import HOSTILE

from hsm_export.diffing.layers.graph import LayerGraph
from hsm_export.diffing.repro import write_repro
from hsm_export.errors import BadInputError
from hsm_export.onnx_model.model_file import open_model


def _node() -> onnx.ModelProto:
    return LayerGraph(chain()).extract([1])


def _right() -> np.ndarray:
    weight = onnx.numpy_helper.to_array(chain().graph.initializer[0]).astype(np.float64)
    return np.asarray(rows()["x"].astype(np.float64) @ weight.T)


def test_a_repro_is_a_file_that_opens_with_its_inputs_and_right_results(tmp_path: Path) -> None:
    path, command = write_repro(
        tmp_path / "new" / "repro", "ort.product", _node(), tmp_path, rows(), {"a": _right()}, precision="fp32",
        runtime="ort",
    )  # fmt: skip
    assert path == tmp_path / "new" / "repro" / "ort.product"
    assert sorted(item.name for item in path.iterdir()) == ["expected.npz", "inputs.npz", "node.onnx", "repro.json"]
    assert open_model(path / "node.onnx").precision == "fp32"
    with np.load(path / "inputs.npz") as inputs, np.load(path / "expected.npz") as expected:
        np.testing.assert_array_equal(inputs["x"], rows()["x"])
        np.testing.assert_array_equal(expected["a"], _right())
    assert json.loads((path / "repro.json").read_text()) == {"node": "ort.product", "command": command}
    assert shlex.split(command)[:2] == ["hsm-export", "diff"]


def test_its_command_shows_the_fault_again(tmp_path: Path) -> None:
    right = _right()
    right[3, 2] += 0.01
    folder = tmp_path / "with space"
    _, command = write_repro(
        folder, "product", _node(), tmp_path, rows(), {"a": right}, precision="fp32", runtime="ort"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "hsm_export", *shlex.split(command)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "a[3, 2]" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["../../etc/passwd", "/", "..", "", HOSTILE, "a" * 3000, "con\0nul"])
def test_names_of_strangers_stay_in_the_folder(name: str, tmp_path: Path) -> None:
    path, command = write_repro(
        tmp_path / "repro", name, _node(), tmp_path, rows(), {"a": _right()}, precision="fp32", runtime="ort"
    )
    assert path.parent == tmp_path / "repro"
    assert path.resolve().parent == (tmp_path / "repro").resolve()
    assert [item.name for item in tmp_path.iterdir()] == ["repro"]
    assert command.isprintable()


def test_weights_in_a_file_of_their_own_come_into_the_repro(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "m.onnx"
    onnx.save(chain(), str(path), save_as_external_data=True, size_threshold=0, location="m.data")
    node = LayerGraph(onnx.load(str(path), load_external_data=False)).extract([1])
    written, _ = write_repro(
        tmp_path / "repro", "product", node, path.parent, rows(), {"a": _right()}, precision="fp32", runtime="ort"
    )
    (tmp_path / "model" / "m.data").unlink()
    weight = onnx.load(str(written / "node.onnx")).graph.initializer[0]
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(weight), onnx.numpy_helper.to_array(chain().graph.initializer[0])
    )
    # What was extracted still refers to the file: nothing of it was changed.
    assert node.graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL


def test_an_older_repro_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for _ in range(2):
        path, _ = write_repro(
            tmp_path, "n", _node(), tmp_path, rows(), {"a": _right()}, precision="fp32", runtime="ort"
        )
        assert not (path / "stale").exists()
        (path / "stale").touch()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="cannot write"):
        write_repro(
            tmp_path / "file" / "repro", "n", _node(), tmp_path, rows(), {"a": _right()}, precision="fp32",
            runtime="ort",
        )  # fmt: skip
