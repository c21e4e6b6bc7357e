"""`diff` as a whole, on models that take no time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from rich.console import Console
from tests.exporter.diffing.plain_models import NODE, branching, chain, model, rows
from tests.exporter.diffing.synthetic import HOSTILE
from tests.studies.planting import Fault, planted

from hsm_export.diffing import DiffOptions, diff
from hsm_export.diffing.explaining import Explanation
from hsm_export.diffing.reporting.json_file import read_json, write_json
from hsm_export.diffing.reporting.terminal import render
from hsm_export.diffing.results import DiffResult
from hsm_export.errors import BadInputError, UsageError
from hsm_export.runtimes import get, onnx_reference, onnx_runtime
from hsm_export.validation.cases import Case

LAYERS = DiffOptions(layers=True, generate=0)
FAULT = Fault("b", "float32", np.pad(np.float64([[0.25]]), ((3, 1), (2, 1))))


def saved(proto: onnx.ModelProto, folder: Path, **options: Any) -> Path:
    """Write a model and return its path."""
    onnx.save(proto, str(folder / "m.onnx"), **options)
    return folder / "m.onnx"


def text(result: DiffResult) -> str:
    """Return what a terminal would show, without colours."""
    console = Console(file=io.StringIO(), width=200)
    console.print(render(result))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def ran(path: Path, options: DiffOptions = LAYERS, runtimes: tuple[str, ...] = ("ort",)) -> DiffResult:
    """Compare runtimes on an input of five rows."""
    return diff(path, runtimes, inputs=rows(), options=options)


class Wrapped:
    """A Polygraphy runner whose answers are changed."""

    def __init__(self, inner: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._inner = inner
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __enter__(self) -> Wrapped:
        self._inner.activate()
        return self

    def __exit__(self, *error: object) -> None:
        self._inner.deactivate()

    def infer(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Run, and change what comes out."""
        return self._change(self._inner.infer(*arguments, **options))


@pytest.mark.parametrize("make", [chain, branching])
def test_a_plain_model_that_all_runtimes_agree_on(make: Any, tmp_path: Path) -> None:
    result = ran(saved(make(), tmp_path))
    assert result.passed, result.summary
    (report,) = result.runtimes
    assert (report.runtime, report.verdict, report.culprit, report.noise) == ("ort", "same", None, 0.0)
    assert len({item.node for item in report.layers}) >= 3
    assert result.reference == "onnx64"
    assert result.complete
    assert result.layer_case == "given inputs"
    assert "every runtime keeps the numbers of onnx64" in result.summary


def test_layers_are_compared_when_an_output_differs_and_not_before(tmp_path: Path) -> None:
    path = saved(chain(), tmp_path)
    options = DiffOptions(generate=0)
    assert ran(path, options).runtimes[0].layers == ()
    with planted({"ort": FAULT}):
        assert ran(path, options).runtimes[0].culprit is not None
        silent = ran(path, replace(options, layers=False))
    assert silent.runtimes[0].layers == ()
    assert not silent.passed
    assert "ort: output y[3, 2]" in silent.summary


def test_the_first_node_at_fault_is_named_with_both_values(tmp_path: Path) -> None:
    with planted({"ort": FAULT}):
        result = ran(saved(chain(), tmp_path))
    assert not result.passed
    (culprit,) = result.culprits
    assert (culprit.layer.node, culprit.layer.operator, culprit.layer.index) == ("squash", "Tanh", 2)
    assert culprit.layer.errors.worst_index == (3, 2)
    assert culprit.layer.errors.value - culprit.layer.errors.reference == pytest.approx(0.25, rel=1e-3)
    assert culprit.consequences == 0
    assert culprit.input_shapes == {"a": (5, 4)}
    assert result.summary == culprit.line
    assert "ort: squash (Tanh) is the first node at fault: b[3, 2] is" in culprit.line
    assert "squash" in text(result)


def test_two_nodes_at_fault_and_the_first_of_them(tmp_path: Path) -> None:
    first, second = replace(FAULT, tensor="a"), replace(FAULT, tensor="y")
    both = replace(get("ort"), runner=lambda run: get_ort(replace(run, model=second.plant(first.plant(run.model)))))
    get_ort = get("ort").runner
    with mock.patch.object(onnx_runtime, "ORT", both):
        result = ran(saved(chain(), tmp_path))
    (culprit,) = result.culprits
    assert (culprit.layer.node, culprit.consequences) == ("product", 1)


def test_a_runtime_that_raises_is_failed_and_the_others_go_on(tmp_path: Path) -> None:
    def broken(run: Any) -> Any:
        raise RuntimeError("no kernel for this\nand more lines")

    with mock.patch.object(onnx_runtime, "ORT", replace(get("ort"), runner=broken)):
        result = ran(saved(chain(), tmp_path), runtimes=("ort", "onnx-reference", "ort-fused"))
    reports = {item.runtime: item for item in result.runtimes}
    assert reports["ort"].verdict == "failed"
    assert reports["ort"].reason == "ort cannot run the file: no kernel for this"
    assert reports["ort-fused"].verdict == "same"
    assert reports["ort-fused"].layers
    assert not result.passed
    assert result.summary.startswith("ort cannot run the file")


def test_a_runtime_whose_layers_cannot_be_seen_is_still_judged(tmp_path: Path) -> None:
    usual = get("ort")

    def runner(run: Any) -> Any:
        if len(run.model.graph.output) > 1:
            raise RuntimeError("too many outputs")
        return usual.runner(run)

    with mock.patch.object(onnx_runtime, "ORT", replace(usual, runner=runner)):
        result = ran(saved(chain(), tmp_path))
    assert result.runtimes[0].verdict == "same"
    assert result.runtimes[0].layers == ()
    assert "its layers cannot be seen: too many outputs" in result.runtimes[0].notes


@pytest.fixture
def drifting() -> Iterator[None]:
    """Make `ort` add more to its result with every run."""
    usual, calls = get("ort"), [0]

    def change(outputs: dict[str, Any]) -> dict[str, Any]:
        calls[0] += 1
        offset = np.float32(calls[0] * 2e-7)
        return {name: np.asarray(array) + offset if name in ("y", "b") else array for name, array in outputs.items()}

    def runner(run: Any) -> Any:
        return Wrapped(usual.runner(run), change)

    with mock.patch.object(onnx_runtime, "ORT", replace(usual, runner=runner)):
        yield


@pytest.mark.usefixtures("drifting")
def test_a_runtime_that_does_not_repeat_itself_is_said_to(tmp_path: Path) -> None:
    report = ran(saved(chain(), tmp_path)).runtimes[0]
    assert report.noise is not None
    assert report.noise > 1e-7
    assert any(note.startswith("repeated runs differ by up to") for note in report.notes)
    assert any("squash (Tanh) gives two results for the same inputs" in note for note in report.notes), report.notes


def test_float16_that_overflows_says_where(tmp_path: Path) -> None:
    weights = {"k": np.float16([300.0])}
    nodes = [
        NODE("Mul", ["x", "k"], ["a"], "large"),
        NODE("Mul", ["a", "k"], ["b"], "larger"),
        NODE("Tanh", ["b"], ["y"], "squash"),
    ]
    path = saved(model(nodes, weights, kind=TensorProto.FLOAT16), tmp_path)
    result = diff(path, ["ort"], inputs={"x": np.full((2, 4), 5.0, np.float32)}, options=LAYERS)
    layers = {item.node: item for item in result.runtimes[0].layers}
    # ONNX Runtime may keep float32 between nodes that it joins; where it does not, this node is the first infinite one.
    assert layers["large"].passed
    if np.isinf(layers["larger"].errors.value):
        assert layers["larger"].own == np.inf
        assert not layers["larger"].passed
        assert result.runtimes[0].culprit is not None
        assert result.runtimes[0].culprit.layer.node == "larger"


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    path = saved(chain(), tmp_path, save_as_external_data=True, size_threshold=0, location="m.data")
    with planted({"ort": FAULT}):
        result = ran(path, replace(LAYERS, repro=tmp_path / "repro"))
    (culprit,) = result.culprits
    assert culprit.layer.node == "squash"
    assert culprit.repro is not None
    assert (Path(culprit.repro) / "node.onnx").is_file()


def test_a_repro_holds_the_real_inputs_and_the_right_results(tmp_path: Path) -> None:
    path = saved(chain(), tmp_path)
    with planted({"ort": FAULT}):
        result = ran(path, replace(LAYERS, repro=tmp_path / "repro"))
    (culprit,) = result.culprits
    folder = Path(str(culprit.repro))
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "expected.npz") as expected:
        np.testing.assert_allclose(expected["b"], np.tanh(inputs["a"].astype(float)), rtol=1e-12)
    again = {"inputs": folder / "inputs.npz", "reference": folder / "expected.npz", "options": LAYERS}
    assert diff(folder / "node.onnx", ["ort"], **again).passed
    with planted({"ort": FAULT}):
        repeated = diff(folder / "node.onnx", ["ort"], **again)
    assert not repeated.passed
    worst = repeated.runtimes[0].worst
    assert worst is not None
    assert worst.errors.worst_index == (3, 2)
    assert worst.errors.max_abs == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize("cap", [{"max_seconds": 1e-9}, {"max_bytes": 1}])
def test_a_cap_gives_a_report_of_what_came_before_it(cap: dict[str, Any], tmp_path: Path) -> None:
    result = ran(saved(chain(), tmp_path), replace(LAYERS, **cap))
    assert not result.complete
    assert not result.passed
    assert any("limit of" in note and "what follows was not compared" in note for note in result.notes)
    assert "was not compared" in text(result)


def test_a_cap_amid_the_layers_keeps_those_that_were_compared(tmp_path: Path) -> None:
    from hsm_export.limits import LimitError, Limits

    def check(self: Limits, phase: str) -> None:
        if "layer squash" in phase:
            raise LimitError("the time limit of 1 s was reached", "raise --max-seconds")

    with mock.patch.object(Limits, "check", check):
        result = ran(saved(chain(), tmp_path))
    assert not result.complete
    assert [item.node for item in result.runtimes[0].layers] == ["product"]


def test_rules_decide_what_fails(tmp_path: Path) -> None:
    path = saved(chain(), tmp_path)
    with planted({"ort": FAULT}):
        strict = ran(path, replace(LAYERS, fail_on=("error>0.1",)))
        loose = ran(path, replace(LAYERS, fail_on=("error>10",)))
    assert not strict.passed
    assert len(strict.violated) == 1
    assert loose.passed
    assert loose.violated == ()
    with pytest.raises(UsageError):
        ran(path, replace(LAYERS, fail_on=("nonsense>1",)))


def test_a_baseline_tells_what_got_worse(tmp_path: Path) -> None:
    path = saved(chain(), tmp_path)
    write_json(ran(path), tmp_path / "old.json")
    options = replace(LAYERS, baseline=tmp_path / "old.json", fail_on=("regression",))
    assert ran(path, options).passed
    with planted({"ort": FAULT}):
        worse = ran(path, options)
    assert not worse.passed
    assert {item.what for item in worse.regressions} >= {"output", "layer"}
    write_json(worse, tmp_path / "new.json")
    assert read_json(tmp_path / "new.json") == worse


def test_hostile_names_come_through_and_stay_in_the_folder(tmp_path: Path) -> None:
    name = HOSTILE.replace("\x1b", "")
    nodes = [NODE("Tanh", ["x"], [f"../../{name}"], f"/etc/{name}"), NODE("Mul", [f"../../{name}", "k"], ["y"], "..")]
    path = saved(model(nodes, {"k": np.float32([2.0])}), tmp_path)
    fault = replace(FAULT, tensor=f"../../{name}")
    with planted({"ort": fault}):
        result = ran(path, replace(LAYERS, repro=tmp_path / "repro"))
    (culprit,) = result.culprits
    assert culprit.layer.node == f"/etc/{name}"
    assert culprit.repro is not None
    assert Path(culprit.repro).parent == tmp_path / "repro"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["m.onnx", "repro"]
    assert "\x1b" not in text(result)


def test_nodes_without_names_are_told_by_place(tmp_path: Path) -> None:
    nodes = [NODE("Tanh", ["x"], ["b"]), NODE("Mul", ["b", "b"], ["y"])]
    with planted({"ort": FAULT}):
        result = ran(saved(model(nodes), tmp_path))
    assert result.culprits[0].layer.node == "Tanh_0"


def test_an_operator_without_doubles_falls_back_to_onnxs_evaluator(tmp_path: Path) -> None:
    nodes = [NODE("Celu", ["x"], ["b"], "celu"), NODE("Mul", ["b", "b"], ["y"], "square")]
    path = saved(model(nodes), tmp_path)
    assert ran(path).passed
    with planted({"ort": FAULT}):
        assert ran(path).culprits[0].layer.node == "celu"


def test_inputs_are_chosen_where_none_are_given(tmp_path: Path) -> None:
    result = diff(saved(chain(), tmp_path), ["ort"], options=LAYERS)
    assert result.passed, result.summary
    assert len(result.cases) > 1
    assert any("says nothing about its inputs" in note for note in result.notes)


def test_a_decoding_file(decoding: Path, checkpoint: Path) -> None:
    result = diff(decoding, ["ort"], shapes=[(2, 5)], options=DiffOptions(layers=True, generate=4))
    assert result.passed, result.summary
    assert result.runtimes[0].layers
    assert result.runtimes[0].language is not None
    assert result.runtimes[0].language.greedy_tokens == 4


def test_files_that_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        diff(tmp_path / "missing.onnx")
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(BadInputError):
        diff(tmp_path / "m.onnx")


def test_runtimes_that_there_are_not(tmp_path: Path) -> None:
    path = saved(chain(), tmp_path)
    with pytest.raises(UsageError, match="there is no runtime 'abacus'"):
        diff(path, ["abacus"])
    with pytest.raises(UsageError, match="needs the PyTorch model"):
        diff(path, ["torch"])


def test_another_runtime_as_the_reference(tmp_path: Path) -> None:
    result = diff(saved(chain(), tmp_path), ["ort"], reference="onnx-reference", inputs=rows(), options=LAYERS)
    assert result.passed, result.summary
    assert result.reference == onnx_reference.ONNX_REFERENCE.name


def test_layers_inside_control_flow_are_layers(tmp_path: Path) -> None:
    result = ran(saved(branching(), tmp_path))
    assert result.passed, result.summary
    layers = result.runtimes[0].layers
    names = {item.node for item in layers}
    assert {"choice/then_branch/inner", "scan/body[0]/Add_0", "scan/body[4]/Mul_1"} <= names
    assert all(item.own is not None for item in layers)


@pytest.mark.parametrize("bisect", [False, True])
def test_a_node_inside_a_loop_is_at_fault_and_its_iteration_is_named(bisect: bool, tmp_path: Path) -> None:
    path = saved(branching(), tmp_path)
    options = DiffOptions(layers=not bisect, bisect=bisect, generate=0, repro=tmp_path / "repro")
    with planted({"ort": Fault("row_out", "float32", np.float64([0, 0.25, 0, 0]))}):
        result = ran(path, options)
    assert not result.passed
    if bisect:
        (found,) = result.bisections
        assert ("scan/body[0]/Mul_1", "Mul") in found.nodes
        return
    (culprit,) = result.culprits
    assert culprit.layer.node == "scan/body[0]/Mul_1"
    assert culprit.consequences == 4
    again = Path(str(culprit.repro))
    assert [node.op_type for node in onnx.load(again / "node.onnx").graph.node] == ["Mul"]


def test_nodes_that_fail_only_together_are_found_and_written(tmp_path: Path) -> None:
    """A runtime joins two nodes wrongly: each alone is right, and the sub-graph of both is the repro."""
    nodes = [NODE("Tanh", ["x"], ["t"], "t"), NODE("Mul", ["t", "t"], ["m"], "square"), NODE("Exp", ["m"], ["e"], "e")]
    nodes += [NODE("Neg", ["e"], ["n"], "n"), NODE("Abs", ["n"], ["a"], "a"), NODE("Sin", ["a"], ["y"], "s")]
    path = saved(model(nodes), tmp_path)
    healthy = get("ort")

    def runner(context: Any) -> Any:
        changed = onnx.ModelProto.FromString(context.model.SerializeToString())
        names = {node.name for node in changed.graph.node}
        outputs = {value.name for value in changed.graph.output}
        if {"square", "e"} <= names and "m" not in outputs:
            changed = Fault("e", "float32", np.full((1, 1), 0.125)).plant(changed)
        return healthy.runner(replace(context, model=changed))

    options = DiffOptions(layers=False, bisect=True, generate=0, repro=tmp_path / "repro")
    with mock.patch.object(onnx_runtime, "ORT", replace(healthy, runner=runner)):
        result = ran(path, options)
        (found,) = result.bisections
        assert found.nodes == (("square", "Mul"), ("e", "Exp")), found
        assert "they fail together, as one graph" in " ".join(found.notes)
        (folder,) = (tmp_path / "repro").iterdir()
        repro = onnx.load(folder / "node.onnx")
        assert [node.name for node in repro.graph.node] == ["square", "e"]
        inputs = {"inputs": folder / "inputs.npz", "reference": folder / "expected.npz"}
        assert not diff(folder / "node.onnx", ["ort"], **inputs, options=DiffOptions(layers=False)).passed
    assert diff(folder / "node.onnx", ["ort"], **inputs, options=DiffOptions(layers=False)).passed


def test_a_fault_of_the_control_flow_itself_is_the_fault_of_its_node(tmp_path: Path) -> None:
    """What a runtime does only where the graphs inside a node are inside is seen on the node as a whole."""
    path = saved(branching(), tmp_path)
    whole = Fault("y", "float32", np.pad(np.float64([[0.25]]), ((3, 1), (2, 1))))
    healthy = get("ort")

    def runner(context: Any) -> Any:
        rolled = any(node.op_type == "Scan" for node in context.model.graph.node)
        return healthy.runner(replace(context, model=whole.plant(context.model)) if rolled else context)

    with mock.patch.object(onnx_runtime, "ORT", replace(healthy, runner=runner)):
        result = ran(path)
    (culprit,) = result.culprits
    assert culprit.layer.node == "scan"
    assert any("compared as a whole" in note for note in result.runtimes[0].notes)


@pytest.mark.parametrize(("sizes", "expected"), [([2, 4096, 8192], 1), ([9000, 5000], 1), ([3, 7], 1)])
def test_layers_are_compared_on_a_long_case_but_not_on_hundreds_of_pictures(sizes: list[int], expected: int) -> None:
    cases = [Case(str(size), {"x": np.zeros(size)}) for size in (*sizes, 1)]
    cases[-1] = Case("odd", {"x": np.zeros(4000)}, ordinary=False)
    made = SimpleNamespace(reports={}, feeds=SimpleNamespace(cases=cases), setup=SimpleNamespace(context=None))
    assert Explanation(made)._case == expected  # type: ignore[arg-type]
