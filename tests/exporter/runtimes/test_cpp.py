"""The C++ runtime as a runtime among others: the same numbers, any graph, and nothing left behind whatever happens."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.exporter.runtimes.fused import case_of, feed
from tests.exporter.validation.tiny import tiny_model, write_tiny
from tests.operators.harness import ANY_ATTRIBUTES, float32_border, one_node_model

import hsm_export
from hsm_export.errors import BadInputError, HsmExportError, MissingDependencyError
from hsm_export.runtimes import get
from hsm_export.runtimes.cpp import CppRunner
from hsm_export.runtimes.routing import instrument
from hsm_export.runtimes.runtime import RunContext
from hsm_export.runtimes.tracing import trace
from hsm_operators import OPERATORS

UNAVAILABLE = get("cpp").available()
needs_program = pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of the test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def graph(*nodes: onnx.NodeProto, x: int = TensorProto.FLOAT, y: int = TensorProto.FLOAT) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", x, ["n", "m"])]
    outputs = [helper.make_tensor_value_info("y", y, None)]
    body = helper.make_graph(list(nodes), "g", inputs, outputs)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def same(context: RunContext, arrays: dict[str, Any]) -> dict[str, Any]:
    """Run in `cpp` and in `ort-fused`, which must give the same bits; return them."""
    results = []
    for name in ("cpp", "ort-fused"):
        with get(name).runner(context) as runner:
            results.append(runner.infer(arrays, check_inputs=False))
    assert list(results[0]) == list(results[1])
    for name, array in results[1].items():
        np.testing.assert_array_equal(results[0][name], array, err_msg=name)
        assert results[0][name].dtype == array.dtype
        assert results[0][name].shape == array.shape
    return dict(results[0])


@needs_program
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", OPERATORS)
def test_models_of_one_node(name: str, dtype: str, tmp_path: Path) -> None:
    case = case_of(name)
    model = float32_border(one_node_model(name, case.attributes, dtype))
    arrays = feed(case.inputs(np.random.default_rng(0)))
    if "lengths" in arrays:
        arrays["lengths"][:] = case.sizes[case.subject.time]  # what lies beyond is not specified
    same(RunContext(model, tmp_path, dtype), arrays)


@needs_program
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_external_data_traced_results_and_nothing_left(precision: str, tmp_path: Path, scratch: Path) -> None:
    model = onnx.load(str(write_tiny(tiny_model(), tmp_path / "tiny.onnx", precision)))
    (tmp_path / "there").mkdir()
    onnx.save(
        model, str(tmp_path / "there" / "t.onnx"), save_as_external_data=True, location="my weights", size_threshold=0
    )
    loaded = onnx.load(str(tmp_path / "there" / "t.onnx"), load_external_data=False)
    tokens = {"tokens": np.arange(6).reshape(2, 3)}
    before = (tmp_path / "there" / "my weights").read_bytes()
    logits = same(RunContext(loaded, tmp_path / "there", precision), tokens)["logits"]
    assert logits.shape == (2, 3, 23)
    assert not list(scratch.iterdir())
    assert (tmp_path / "there" / "my weights").read_bytes() == before


@needs_program
def test_instrumented_experts_and_traced_operators(tmp_path: Path) -> None:
    model = float32_border(one_node_model("ExpertMatMul", ANY_ATTRIBUTES["ExpertMatMul"]))
    instrumented, routed = instrument(model)
    traced, nodes = trace(instrumented)
    arrays = feed(case_of("ExpertMatMul").inputs(np.random.default_rng(1)))
    arrays |= {node.mask: node.free_mask() for node in routed}
    outputs = same(RunContext(traced, tmp_path, "fp32", routed=routed, traced=nodes), arrays)
    assert outputs[routed[0].logits].ndim == 4
    assert nodes[0].outputs[0] in outputs


@needs_program
def test_any_sizes_and_types(tmp_path: Path) -> None:
    identity = helper.make_node("Identity", ["x"], ["y"])
    for kind in ("FLOAT", "FLOAT16", "DOUBLE", "INT64", "INT32", "INT8", "UINT8", "BOOL"):
        number = getattr(TensorProto, kind)
        context = RunContext(graph(identity, x=number, y=number), tmp_path, "fp32")
        dtype = helper.tensor_dtype_to_np_dtype(number)
        for shape in ((2, 3), (0, 3)):
            same(context, {"x": np.ones(shape, dtype)})
    context = RunContext(graph(helper.make_node("Transpose", ["x"], ["y"])), tmp_path, "fp32")
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert same(context, {"x": array.T})["y"].tolist() == array.tolist()  # not contiguous, and float64 is cast
    assert same(context, {"x": array.astype(np.float64)})["y"].shape == (2, 3)


@needs_program
def test_a_graph_without_inputs(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(2, np.float32)))
    model = graph(constant)
    del model.graph.input[:]
    with get("cpp").runner(RunContext(model, tmp_path, "fp32")) as runner:
        assert runner.infer({}, check_inputs=False)["y"].tolist() == [1, 1]


@needs_program
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_smallest_models_of_the_zoo(precision: str, tmp_path: Path) -> None:
    for name, decode in (("taylor-shift-digits", False), ("hsm-lm", True)):
        path = tmp_path / f"{name}.onnx"
        hsm_export.export(f"zoo:{name}", output=path, precision=precision, decode=decode)
        result = hsm_export.validate(path, f"zoo:{name}", runtimes=["ort-fused", "cpp"])
        assert result.passed, result.summary
        fused, ours = (next(r for r in result.runtimes if r.runtime == n) for n in ("ort-fused", "cpp"))
        assert [item.errors.max_abs for item in ours.worst] == [item.errors.max_abs for item in fused.worst]


@needs_program
def test_what_cannot_run_is_a_sentence(tmp_path: Path, scratch: Path) -> None:
    context = RunContext(graph(helper.make_node("Neg", ["x"], ["y"])), tmp_path, "fp32")
    with get("cpp").runner(context) as runner:
        with pytest.raises(BadInputError, match="'x' must have the shape"):
            runner.infer({"x": np.ones(3, np.float32)}, check_inputs=False)
        with pytest.raises(BadInputError, match="'x' is missing"):
            runner.infer({}, check_inputs=False)
        assert runner.infer({"x": np.ones((1, 1), np.float32)}, check_inputs=False)["y"].tolist() == [[-1]]
    unknown = RunContext(graph(helper.make_node("Magic", ["x"], ["y"])), tmp_path, "fp32")
    with pytest.raises(MissingDependencyError, match="Magic"):
        get("cpp").runner(unknown).activate()
    text = RunContext(
        graph(helper.make_node("Identity", ["x"], ["y"]), x=TensorProto.STRING, y=TensorProto.STRING), tmp_path, "fp32"
    )
    with pytest.raises(BadInputError, match="x is of type string"):
        get("cpp").runner(text).activate()
    assert not list(scratch.iterdir())


@pytest.fixture
def impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], RunContext]:
    """Put a Python program in the place of hsm-run; return a context to run."""

    def write(code: str) -> RunContext:
        program = tmp_path / "hsm-run"
        program.write_text(f"#!{sys.executable}\nimport os, sys, time\n" + textwrap.dedent(code))
        program.chmod(0o755)
        monkeypatch.setenv("HSM_RUN_PROGRAM", str(program))
        return RunContext(graph(helper.make_node("Neg", ["x"], ["y"])), tmp_path, "fp32")

    return write


X = {"x": np.ones((1, 1), np.float32)}
READY = "print('ready', flush=True); sys.stdin.readline()\n"


@needs_program
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (READY + "os.kill(os.getpid(), 11)", "hsm-run ended by SIGSEGV"),
        (READY + "sys.exit('went away')", "with exit code 1: went away"),
        (READY + "time.sleep(60)", "did not answer within 0.5 seconds"),
        (READY + "print('nonsense 1', flush=True); time.sleep(60)", "not its protocol"),
        (READY + "print('error no such luck', flush=True)", "no such luck"),
        ("os.kill(os.getpid(), 9)", "hsm-run ended by SIGKILL"),
        ("print('error: bad bundle', file=sys.stderr); sys.exit(4)", "bad bundle"),
        ("time.sleep(60)", "did not answer"),
    ],
)
def test_a_child_that_fails(
    code: str, words: str, impostor: Callable[[str], RunContext], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsm_export.runtimes.cpp_process._GRACE_SECONDS", 0.2)
    runner = CppRunner(impostor(code), timeout=0.5 if "sleep" in code else 30)
    with pytest.raises(HsmExportError, match=words), runner:
        runner.infer(X, check_inputs=False)
    assert not list(scratch.iterdir())


@needs_program
def test_a_child_that_is_killed(tmp_path: Path, scratch: Path) -> None:
    runner = CppRunner(RunContext(graph(helper.make_node("Neg", ["x"], ["y"])), tmp_path, "fp32"))
    with pytest.raises(HsmExportError, match="SIGTERM"), runner:
        os.kill(runner.pid, signal.SIGTERM)
        runner.infer(X, check_inputs=False)
    assert not list(scratch.iterdir())


def test_without_the_program_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HSM_RUN_PROGRAM", str(tmp_path / "nothing"))
    assert "HSM_RUN_PROGRAM" in str(get("cpp").available())
    monkeypatch.delenv("HSM_RUN_PROGRAM")
    monkeypatch.setattr("hsm_operators.installation.folders", lambda: iter([tmp_path]))
    assert "install a C++ compiler" in str(get("cpp").available())


@needs_program
def test_a_program_of_another_version_is_refused(impostor: Callable[[str], RunContext]) -> None:
    impostor("print('usage: something else')")
    assert "is not the hsm-run of this version" in str(get("cpp").available())
