"""Runtimes that other people wrote, in processes of their own: named by place, described, fed, refused and crashed."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from tests.exporter.exporting.models import MIXERS, language_model
from tests.exporter.validation.tiny import tiny_model, write_tiny

import hsm_export
from hsm_export import runtimes
from hsm_export.errors import BadInputError, HsmExportError, UsageError
from hsm_export.onnx_model.model_file import open_model
from hsm_export.runtimes.runtime import RunContext

PEERS = ("openvino", "mnn", "tract", "iree", "tvm", "tinygrad", "onnxruntime-node", "onnxruntime-web")

ELSEWHERE = """
    import os, sys
    import onnx
    from onnx.reference import ReferenceEvaluator

    class Elsewhere:
        static = True
        options = {"sign": "1 or -1"}

        def __init__(self, model, sign="1"):
            graph = onnx.load(model).graph
            assert all(dim.dim_value for value in graph.input for dim in value.type.tensor_type.shape.dim)
            self.run, self.sign = ReferenceEvaluator(onnx.load(model)).run, int(sign)
            self.remarks = [f"sizes {[dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]}"]

        def __call__(self, inputs):
            print("words of its own")
            return [array if self.sign == 1 else -array for array in self.run(None, inputs)]

    class Crashing(Elsewhere):
        def __call__(self, inputs):
            os.abort()

    class Silent(Elsewhere):
        def __call__(self, inputs):
            return {}

    class Nowhere:
        packages = ("no_such_package",)
        install = "no-such-package==1.0"
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    path = tmp_path / "elsewhere.py"
    path.write_text(textwrap.dedent(ELSEWHERE))
    return str(path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tiny_model(), tmp_path / "tiny.onnx")


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_that_is_there_runs_and_one_that_is_not_says_what_to_install(name: str, tmp_path: Path) -> None:
    problem = runtimes.get(name).available()
    if problem is not None:
        assert "install" in problem or "no package" in problem or "cannot be started" in problem
        pytest.skip(problem)
    source, path = language_model(*MIXERS["hsm-gated2"]), tmp_path / "m.onnx"
    hsm_export.export(source, output=path)
    result = hsm_export.validate(path, source, runtimes=[name], shapes=[(1, 5)])
    assert result.passed, result.summary
    assert any(note.startswith(f"{name}: ") for note in result.notes)


@pytest.mark.parametrize("name", ["taylor-shift", "hybrid"])
@pytest.mark.parametrize("portable", [False, True])
def test_openvino_runs_files_and_says_in_which_type(name: str, portable: bool, tmp_path: Path) -> None:
    if problem := runtimes.get("openvino").available():
        pytest.skip(problem)
    model, path = language_model(*MIXERS[name]), tmp_path / "m.onnx"
    hsm_export.export(model, output=path, portable=portable)
    result = hsm_export.validate(path, model, runtimes=["openvino"], shapes=[(1, 1), (2, 13)])
    assert result.passed, result.summary
    assert any("says that it computes in f32" in note for note in result.notes)


def test_options_of_peers() -> None:
    assert runtimes.get("openvino:precision=bf16").name == "openvino:precision=bf16"
    with pytest.raises(UsageError, match="'speed=9' is no option of openvino"):
        runtimes.get("openvino:speed=9")


def test_places_that_have_nothing(tmp_path: Path) -> None:
    assert "cannot be started" in str(runtimes.get(f"tract@{tmp_path}/python").available())
    if shutil.which("node"):
        assert "has no package onnxruntime-web" in str(runtimes.get(f"onnxruntime-web@{tmp_path}").available())


def test_a_class_of_ones_own_elsewhere(model: Path, elsewhere: str) -> None:
    name = f"{elsewhere}:Elsewhere@{sys.executable}"
    assert runtimes.get(name).available() is None
    result = hsm_export.validate(model, runtimes=[name, f"{name}:sign=-1"])
    assert [run.verdict for run in result.runtimes[1:]] == ["passed", "failed"]
    assert sum(note.startswith(f"{name}: sizes [") for note in result.notes) > 1  # a file for each size
    with pytest.raises(UsageError, match="'sine=1' is no option"):
        runtimes.get(f"{name}:sine=1")


def test_what_does_not_work_elsewhere(model: Path, elsewhere: str, tmp_path: Path) -> None:
    place = f"{elsewhere}:Nowhere@{sys.executable}"
    assert "no package 'no_such_package'; pip install no-such-package==1.0" in str(runtimes.get(place).available())
    names = [f"{elsewhere}:{kind}@{sys.executable}" for kind in ("Crashing", "Silent")]
    crashing, silent = hsm_export.validate(model, runtimes=names).runtimes[1:]
    assert crashing.verdict == silent.verdict == "failed"
    assert "by SIGABRT" in str(crashing.reason) and "returns no" in str(silent.reason)
    with pytest.raises(BadInputError, match="absent"):
        runtimes.get(f"{tmp_path}/absent.py:Mine@{sys.executable}")


def test_arrays_of_all_types_travel(elsewhere: str, tmp_path: Path) -> None:
    text = """
        <ir_version: 8, opset_import: ["": 18]>
        g (float16[n] a, bool[n] b, int64[one] c, double[n] d) => (float16[n] e, bool[n] f, int64[one] h, double[n] i)
        { e = Identity(a)  f = Identity(b)  h = Identity(c)  i = Identity(d) }
    """
    context = RunContext(onnx.parser.parse_model(text), tmp_path, "fp32")
    feed = {
        "a": np.array([1, 2], np.float16),
        "b": np.array([True, False]),
        "c": np.array([7]),
        "d": np.array([1e-300, 2.0]),
    }
    places = [f"{elsewhere}:Elsewhere@{sys.executable}", f"ort@{sys.executable}"]
    for name in places:
        with runtimes.get(name).runner(context) as runner:
            found = runner.infer(feed)
        for given, got in zip(feed.values(), found.values(), strict=True):
            assert got.dtype == given.dtype and got.shape == given.shape and (got == given).all()


def test_a_runtime_that_dies_at_once(tmp_path: Path, model: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho no such luck >&2; exit 3\n")
    dying.chmod(0o755)
    file = open_model(model)
    context = RunContext(file.model, file.path.parent, file.precision)
    with pytest.raises(HsmExportError, match="ended with exit code 3: no such luck"):
        runtimes.get(f"tract@{dying}").runner(context).activate()
