"""A model with operators of one's own, through every command: export, validate, diff, inspect, build, session."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.operators import samples
from tests.shared import made_once

import hsm_export
from hsm_export.building.network import network_bytes
from hsm_export.diffing.layers.alignment import align
from hsm_export.diffing.layers.graph import LayerGraph
from hsm_export.errors import BadInputError
from hsm_operators import OPERATORS

PRECISIONS = ("fp32", "fp16", "bf16")
RUNTIMES = ("onnx-reference", "ort", "ort-fused", "cpp")


@pytest.fixture(scope="module")
def folder() -> Path:
    """The model in every precision."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for precision in PRECISIONS:
            path = folder / f"{precision}.onnx"
            hsm_export.export(samples.mixed(), (torch.randn(2, 9, 16),), path, precision=precision)

    return made_once("mixed", make)


def test_bodies_are_shared_where_they_serve_and_named_after_what_they_hold(folder: Path) -> None:
    model = onnx.load(folder / "fp32.onnx")
    assert [function.name for function in model.functions] == [
        "ConvState",
        "GatedLinear",
        "Scale",
        "Taps__dilations1_2_4_causal1_scale0p5",
        "Taps__dilations3_1_causal0_scale1p0",
        "WindowMean",  # one body for two numbers of tokens: the number is an attribute
    ]
    calls = [node for node in model.graph.node if node.domain == "samples"]
    assert sum(node.op_type == "WindowMean" for node in calls) == 2
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 18), ("samples", 1)}
    for node in calls:
        written = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert written["plugin_namespace"] == b"samples" and written["plugin_version"] == b"1"


def test_every_precision_computes_in_float32_inside(folder: Path) -> None:
    for precision in PRECISIONS:
        model = onnx.load(folder / f"{precision}.onnx")
        for function in model.functions:
            kinds = {node.op_type for node in function.node}
            assert {"Cast", "CastLike"} <= kinds, function.name
    first, second = (onnx.load(folder / f"{precision}.onnx").functions for precision in ("fp32", "bf16"))
    assert [f.SerializeToString() for f in first] == [f.SerializeToString() for f in second]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_runtime_keeps_the_numbers(folder: Path, precision: str) -> None:
    result = hsm_export.validate(folder / f"{precision}.onnx", samples.mixed(), runtimes=RUNTIMES)
    assert result.passed, result.summary
    assert {report.runtime for report in result.runtimes} == {"torch", *RUNTIMES}
    # The lengths at which WindowMean says that it takes another path: span and span + 1, for 2 and 5 tokens.
    lengths = {int(case.rpartition("×")[2]) for case in result.cases if case.startswith("random")}
    assert {2, 3, 5, 6} <= lengths


def test_diff_names_each_operator_and_finds_nothing(folder: Path) -> None:
    options = hsm_export.DiffOptions(layers=True)
    result = hsm_export.diff(folder / "fp32.onnx", ["ort"], against=samples.mixed(), options=options)
    assert result.passed, [culprit.line for culprit in result.culprits]
    (report,) = [report for report in result.runtimes if report.runtime == "ort"]
    own = {layer.operator: layer for layer in report.layers if layer.domain == "samples"}
    assert "GatedLinear" in own and own["GatedLinear"].threshold is not None
    assert own["GatedLinear"].own is not None and own["GatedLinear"].own <= own["GatedLinear"].threshold.value
    assert own["GatedLinear"].threshold.native > 0  # PyTorch's own operator and onnx's evaluator were measured


def test_diff_names_the_operator_whose_body_is_wrong(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "fp32.onnx")
    body = next(function for function in model.functions if function.name == "GatedLinear")
    next(node for node in body.node if node.op_type == "Sigmoid").op_type = "Tanh"
    onnx.save(model, tmp_path / "wrong.onnx")
    options = hsm_export.DiffOptions(layers=True)
    result = hsm_export.diff(tmp_path / "wrong.onnx", ["ort"], against=samples.mixed(), options=options)
    assert not result.passed
    assert any("GatedLinear" in culprit.line for culprit in result.culprits)


def test_the_source_calls_the_operators_in_the_order_of_the_graph(folder: Path) -> None:
    graph = LayerGraph(onnx.load(folder / "fp32.onnx"))
    single = [unit for unit in align(graph, samples.mixed()) if unit.single]
    assert [unit.operator.partition("__")[0] for unit in single] == [
        "WindowMean", "WindowMean", "Taps", "Taps", "GatedLinear", "ConvState", "Scale",
    ]  # fmt: skip


def test_inspect_counts_what_the_specification_says(folder: Path) -> None:
    result = hsm_export.inspect(folder / "fp32.onnx")
    rows = {row.name: row for row in result.mixers}
    assert rows["WindowMean"].kind == "samples::WindowMean"
    assert rows["WindowMean_2"].details == {"span": 5}
    taps = next(row for row in result.mixers if row.kind == "samples::Taps")
    assert taps.details == {"dilations": [1, 2, 4], "causal": True, "scale": 0.5}
    assert result.formulas == {"samples::GatedLinear": "6HKV", "samples::WindowMean": "5D"}
    assert rows["GatedLinear"].costs[0].flops == 6 * 2 * 8 * 8
    uncounted = {name.partition("__")[0] for name in result.uncounted}
    assert uncounted == {"samples::Taps", "samples::ConvState", "samples::Scale"}  # they have no cost


def test_a_file_says_what_its_operators_are(folder: Path) -> None:
    """Where nobody registered them, too: a process of its own that imports none of them."""
    script = (
        "import json, sys, hsm_export, onnx\n"
        "from hsm_operators import find\n"
        "path = sys.argv[1]\n"
        "assert find('samples', 'GatedLinear') is None\n"
        "seen = hsm_export.inspect(path)\n"
        "checked = hsm_export.validate(path, runtimes=['onnx-reference', 'ort', 'cpp'], shapes=[(2, 7)])\n"
        "told = hsm_export.diff(path, ['ort'], options=hsm_export.DiffOptions(layers=True))\n"
        "print(json.dumps([seen.formulas, [r.kind for r in seen.mixers][0], checked.passed, told.passed]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder / "fp16.onnx")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    formulas, kind, validated, differed = json.loads(done.stdout.splitlines()[-1])
    assert formulas == {"samples::GatedLinear": "6HKV", "samples::WindowMean": "5D"}
    assert (kind, validated, differed) == ("samples::WindowMean", True, True)


def test_a_file_that_says_nothing_runs_all_the_same(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "fp32.onnx")
    del model.metadata_props[:]
    # Of a domain that nobody knows, and without the attributes of plugins.
    for node in model.graph.node:
        if node.domain == "samples":
            node.domain = "strange"
            kept = [a for a in node.attribute if not a.name.startswith("plugin_")]
            del node.attribute[:]
            node.attribute.extend(kept)
    for function in model.functions:
        function.domain = "strange"
        names = [name for name in function.attribute if not name.startswith("plugin_")]
        del function.attribute[:]
        function.attribute.extend(names)
    for entry in model.opset_import:
        entry.domain = "strange" if entry.domain == "samples" else entry.domain
    path = tmp_path / "strange.onnx"
    onnx.save(model, path)
    assert hsm_export.validate(path, runtimes=["onnx-reference", "ort", "cpp"], shapes=[(2, 7)]).passed
    assert hsm_export.diff(path, ["ort"], options=hsm_export.DiffOptions(layers=True)).passed
    assert "strange::GatedLinear" in hsm_export.inspect(path).uncounted


def test_a_malformed_description_is_refused(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "fp32.onnx")
    entry = next(entry for entry in model.metadata_props if entry.key == "hsm_export.operators")
    for value in ("[", '[{"name": 3}]', '[{"name": "A", "domain": "b", "inputs": [{}], "outputs": []}]', '{"a": 1}'):
        entry.value = value
        onnx.save(model, tmp_path / "bad.onnx")
        with pytest.raises(BadInputError, match="operators is malformed"):
            hsm_export.inspect(tmp_path / "bad.onnx")


def test_a_session_with_kernels_runs_the_bodies(folder: Path) -> None:
    x = torch.randn(1, 5, 16)
    (found,) = hsm_export.session(folder / "fp32.onnx").run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, samples.mixed()(x).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_builders_get_bodies_whose_nodes_are_named_after_their_call(folder: Path) -> None:
    for plugins in (tuple(OPERATORS), ()):
        network = onnx.load_from_string(network_bytes(folder / "fp32.onnx", plugins=plugins))
        assert not network.functions
        assert {node.domain for node in network.graph.node} == {""}
        names = [node.name for node in network.graph.node]
        assert "GatedLinear.Scan" in names and "ConvState.Scan" in names


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_is_built_without_a_gpu(folder: Path, tmp_path: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    profile = {"batch": "1:1:2", "length": "1:16:64"}
    result = hsm_export.build(
        folder / f"{precision}.onnx", tmp_path / "m.engine", architectures=["sm86"], profiles=[profile]
    )
    assert result.engine.stat().st_size > 0 and result.plugins is None
