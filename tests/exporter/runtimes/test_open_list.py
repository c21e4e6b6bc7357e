"""The list of runtimes is open: options in names, other Pythons, classes of one's own, entry points, Polygraphy."""

from __future__ import annotations

import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from polygraphy.comparator import Comparator
from tests.exporter.validation.tiny import tiny_model, write_tiny

import hsm_export
from hsm_export import runtimes
from hsm_export.errors import BadInputError, HsmExportError, MissingDependencyError, UsageError
from hsm_export.runtimes.runtime import RunContext, Runtime

MINE = """
    import onnx
    from onnx.reference import ReferenceEvaluator

    class Mine:
        description = "onnx's evaluator"

        def __init__(self, model):
            assert not onnx.load(model).functions
            self.run = ReferenceEvaluator(onnx.load(model)).run
            self.names = [output.name for output in onnx.load(model).graph.output]

        def __call__(self, inputs):
            return dict(zip(self.names, self.run(None, inputs)))

    class Wrong(Mine):
        def __call__(self, inputs):
            return {name: array * 1.01 for name, array in super().__call__(inputs).items()}

    class Listing(Mine):
        def __call__(self, inputs):
            return self.run(None, inputs)

    class Silent(Mine):
        def __call__(self, inputs):
            return {}

    number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(MINE))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tiny_model(), tmp_path / "tiny.onnx")


def test_the_level_of_optimisation_is_what_the_name_says(tmp_path: Path) -> None:
    text = """
        <ir_version: 10, opset_import: ["": 21]> g (float[n, 4] x) => (float[n, 4] y)
        { a = Identity(x)  b = Identity(a)  y = Relu(b) }
    """
    context = RunContext(onnx.parser.parse_model(text), tmp_path, "fp32")
    for name in ("ort:level=0", "ort:level=basic", "ort:disable=EliminateIdentity", "ort"):
        with runtimes.get(name).runner(context) as runner:
            options = runner.sess.get_session_options()
            assert runner.infer({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[1] * 4]
        assert ("ENABLE_ALL" in str(options.graph_optimization_level)) == ("level" not in name)
    assert runtimes.get("ort:level=0:disable=A+B").name == "ort:level=0:disable=A+B"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ort:level=fast", "no level 'fast'"),
        ("ort:speed=9", "'speed=9' is no option of ort"),
        ("ort:level", "'level' is no option"),
        ("ort:level=0:level=all", "'level=all' is no option"),
        ("onnx64:level=0", "no option of onnx64"),
        ("nothing", "there is no runtime 'nothing'"),
        ("torch@/usr/bin/python3", "there is no runtime 'torch@"),
        ("ort@", "there is no runtime 'ort@'"),
    ],
)
def test_names_that_mean_nothing(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        runtimes.get(name)
    assert caught.value.hint


def test_what_is_a_runtime(mine: Path) -> None:
    assert all(map(runtimes.is_runtime, ("ort", "ort:level=0", f"ort@{sys.executable}", f"{mine}:Mine")))
    assert not any(map(runtimes.is_runtime, ("source", "fp16", "ort:speed=9", f"{mine}:number", "absent.py:Mine")))


def test_a_provider_that_is_not_there() -> None:
    with pytest.raises(MissingDependencyError, match="no provider 'MagicProvider'"):
        runtimes.get("ort:provider=MagicProvider")
    assert runtimes.get("ort:provider=CPUExecutionProvider").available() is None


def test_levels_are_compared_with_each_other(model: Path, tmp_path: Path) -> None:
    names = ["ort:level=0", "ort:level=basic", "ort"]
    result = hsm_export.validate(model, runtimes=names)
    assert {run.runtime: run.verdict for run in result.runtimes if run.verdict != "baseline"} == dict.fromkeys(
        names, "passed"
    )
    options = hsm_export.DiffOptions(layers=True, polygraphy=tmp_path / "made")
    compared = hsm_export.diff(model, ["ort:level=0", "ort"], options=options)
    assert compared.passed
    assert {path.name for path in (tmp_path / "made" / "outputs").iterdir()} >= {"ort", "ort_level=0"}


def test_the_onnx_runtime_of_another_python(model: Path, tmp_path: Path) -> None:
    name = f"ort@{sys.executable}"
    result = hsm_export.validate(model, runtimes=[name, "ort"])
    assert {run.verdict for run in result.runtimes} <= {"baseline", "passed"}
    assert "cannot be started: No such file" in str(runtimes.get(f"ort@{tmp_path}/python").available())
    empty = tmp_path / "empty"
    empty.write_text("#!/bin/sh\necho No module named onnxruntime >&2; exit 1\n")
    empty.chmod(0o755)
    assert "ended with exit code 1: No module named" in str(runtimes.get(f"ort@{empty}").available())


def test_another_python_that_refuses_or_dies(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["": 21, "x": 1]> g (float[n] x) => (float[n] y) { y = x.Nothing(x) }'
    context = RunContext(onnx.parser.parse_model(text), tmp_path, "fp32")
    with pytest.raises(BadInputError, match="Nothing"):
        runtimes.get(f"ort@{sys.executable}").runner(context).activate()
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho no such luck >&2; exit 3\n")
    dying.chmod(0o755)
    with pytest.raises(HsmExportError, match="ended with exit code 3: no such luck"):
        runtimes.get(f"ort@{dying}").runner(context).activate()


def test_a_class_of_ones_own(model: Path, mine: Path) -> None:
    names = [f"{mine}:Mine", f"{mine}:Wrong", f"{mine}:Listing"]
    result = hsm_export.validate(model, runtimes=names)
    assert [run.verdict for run in result.runtimes if run.runtime in names] == ["passed", "failed", "passed"]
    assert runtimes.get(names[0]).description == "onnx's evaluator"


@pytest.mark.parametrize(
    ("name", "words"),
    [("Absent", "is a NoneType, which is no runtime"), ("number", "is a int, which is no runtime")],
)
def test_what_is_no_runtime(name: str, words: str, mine: Path) -> None:
    with pytest.raises(BadInputError, match=words):
        runtimes.get(f"{mine}:{name}")


def test_outputs_that_are_missing(model: Path, mine: Path) -> None:
    result = hsm_export.validate(model, runtimes=[f"{mine}:Silent", "ort"])
    (run,) = (run for run in result.runtimes if run.runtime.endswith("Silent"))
    assert run.verdict == "failed" and "returns no" in str(run.reason)


def test_a_registered_runtime_and_an_entry_point(model: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_registered", {})
    monkeypatch.syspath_prepend(mine.parent)
    entry = EntryPoint("theirs", "mine:Mine", runtimes.GROUP)
    broken = EntryPoint("broken", "mine:Nothing", runtimes.GROUP)
    monkeypatch.setattr(runtimes, "entry_points", lambda group: [entry, broken])
    assert {"theirs", "broken"} <= set(runtimes.names())
    assert isinstance(runtimes.get("theirs"), Runtime)
    with pytest.warns(RuntimeWarning), pytest.raises(BadInputError, match="runtime 'broken' cannot be loaded"):
        runtimes.get("broken")
    hsm_export.register_runtime("mine", runtimes.get("theirs"))
    assert "mine" in runtimes.names()
    result = hsm_export.validate(model, runtimes=["mine", "theirs"])
    assert result.passed
    with pytest.raises(UsageError, match="is a runtime of hsm-export"):
        hsm_export.register_runtime("ort", runtimes.get("theirs"))


def test_runtimes_in_a_script_of_polygraphy(model: Path) -> None:
    made = [hsm_export.runner(name, model) for name in ("ort", "onnx-reference", "ort:level=0")]
    results = Comparator.run(made)
    assert len(results) == 3 and Comparator.compare_accuracy(results)
    with pytest.raises(UsageError, match="needs the PyTorch model"):
        hsm_export.runner("torch", model)
