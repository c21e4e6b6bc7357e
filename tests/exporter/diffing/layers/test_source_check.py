"""The file's own maths held to its PyTorch source, and which nodes are which module."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.exporter.diffing.synthetic import layer
from tests.exporter.validation.tiny import change_weight, flip_largest

from hsm_export.diffing import DiffOptions, diff
from hsm_export.diffing.layers.alignment import Unit, align, record
from hsm_export.diffing.layers.graph import LayerGraph
from hsm_export.diffing.layers.source_check import innermost
from hsm_export.diffing.layers.spool import Spool
from hsm_export.diffing.results import DiffResult
from hsm_export.onnx_model.model_file import open_model
from hsm_export.runtimes.runtime import RunContext
from hsm_export.torch_model.torch_source import open_source

TOKENS = {"tokens": np.arange(14).reshape(2, 7)}


def against(path: Path, checkpoint: Path, folder: Path | None = None) -> DiffResult:
    """Compare the file to its source alone."""
    options = DiffOptions(layers=True, generate=0, repro=folder)
    return diff(path, ["onnx64"], against=checkpoint, inputs=TOKENS, options=options)


def test_modules_and_operators_are_found_in_the_graph(whole: Path, checkpoint: Path, tmp_path: Path) -> None:
    file, source = open_model(whole), open_source(checkpoint)
    graph = LayerGraph(file.model)
    units = align(graph, source.load())
    mixers = [unit for unit in units if unit.single]
    assert [unit.operator for unit in mixers] == [
        node.op_type for node in graph.model.graph.node if node.domain == "hsm"
    ]
    names = {unit.name for unit in units}
    assert {"layers.0", "layers.0.mixer", "layers.1"} <= names
    block = next(unit for unit in units if unit.name == "layers.0")
    mixer = next(unit for unit in units if unit.name == "layers.0.mixer")
    assert set(mixer.indices) < set(block.indices)
    assert units.index(mixer) < units.index(block)  # inner ones first
    assert len(block.writes) == 1


def test_what_the_source_computes_is_kept_under_the_files_names(whole: Path, checkpoint: Path, tmp_path: Path) -> None:
    file, source = open_model(whole), open_source(checkpoint)
    spool = Spool(tmp_path)
    graph = LayerGraph(file.model)
    context = RunContext(file.model, whole.parent, "fp32", source.load)
    units = record(context, "fp64", graph, TOKENS, spool)
    assert {unit.name for unit in units} >= {"layers.0", "layers.1"}
    logits = spool.read("logits")
    assert logits is not None
    assert logits.dtype == np.float64
    assert logits.shape == (2, 7, 256)
    block = next(unit for unit in units if unit.name == "layers.1")
    np.testing.assert_array_equal(spool.read(block.result()), spool.read(block.writes[0]))


def test_a_healthy_file_is_its_source(whole: Path, checkpoint: Path) -> None:
    result = against(whole, checkpoint)
    assert result.passed, result.summary
    layers = next(item.layers for item in result.runtimes if item.runtime == "onnx64")
    assert {"layers.0", "layers.0.mixer"} <= {item.node for item in layers}
    assert all(item.threshold is not None and item.own is not None for item in layers)


@pytest.mark.parametrize("where", ["layers.0.feed_forward", "layers.1.mixer", "output"])
def test_a_weight_that_is_not_the_sources_is_found(where: str, whole: Path, checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(whole, tmp_path / "changed.onnx"))
    names = [item.name for item in onnx.load(str(path)).graph.initializer if len(item.dims) == 2]
    name = next(item for item in names if item.startswith(where))
    change_weight(path, name, flip_largest)
    result = against(path, checkpoint)
    assert not result.passed
    (culprit,) = result.culprits
    assert culprit.runtime == "onnx64"
    assert culprit.layer.node.startswith(where.split(".mixer")[0])
    assert "the file's maths differs from the source's" in culprit.line


def test_the_innermost_unit_is_named() -> None:
    def unit(name: str, *indices: int) -> Unit:
        return Unit(name, "Block", indices, ("x",), ("y",), False)

    units = [unit("a.inner", 1), unit("a", 0, 1, 2), unit("b", 3, 4), unit("c", 5)]
    failing = [layer("onnx64", place, own=1.0, total=1.0, node=item.name) for place, item in enumerate(units)]
    named = [item.__class__(**{**vars(item), "operator": "Block", "domain": ""}) for item in failing]
    assert [item.node for item in innermost(named, units)] == ["a.inner", "b", "c"]
    assert [item.node for item in innermost(named[1:], units)] == ["a", "b", "c"]
    assert innermost([], units) == []


def test_a_module_and_the_operator_inside_it_may_share_a_name(tmp_path: Path) -> None:
    """A mixer of class TaylorShift calls the operator TaylorShift: its results are not the operator's."""
    module = Unit("layers.0.mixer", "TaylorShift", (1, 2, 3), ("x",), ("y",), False)
    operator = Unit("layers.0.mixer", "TaylorShift", (2,), ("q",), ("a",), True)
    assert module.result() != operator.result()
    assert module.argument(0) != operator.argument(0)
    failing = layer("onnx64", 3, own=1.0, total=1.0, node="layers.0.mixer")
    items = [replace(failing, operator="TaylorShift", domain=domain) for domain in ("hsm", "")]
    assert innermost(items, [operator, module]) == items[:1]
    assert innermost(items[1:], [operator, module]) == items[1:]
