"""The overlay for Model Explorer is what its page reads, and says of each node what the diff says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.exporter.diffing.plain_models import NODE, branching, chain, model, rows
from tests.studies.planting import Fault, planted

from hsm_export.diffing import DiffOptions, diff
from hsm_export.diffing.reporting.node_data import node_data, write_node_data
from hsm_export.diffing.results import DiffResult


def layered(proto: onnx.ModelProto, folder: Path) -> DiffResult:
    onnx.save(proto, str(folder / "m.onnx"))
    return diff(folder / "m.onnx", ["ort"], inputs=rows(), options=DiffOptions(layers=True, generate=0))


def check(data: Any) -> None:
    """Hold data to the format: GraphNodeData of Model Explorer, without a graph's id around it."""
    assert set(data) <= {"name", "results", "thresholds", "gradient"}
    assert isinstance(data["name"], str)
    assert all(isinstance(key, str) and set(item) == {"value"} for key, item in data["results"].items())
    assert all(type(item["value"]) is float and np.isfinite(item["value"]) for item in data["results"].values())
    bounds = [item["value"] for item in data["thresholds"]]
    assert bounds == sorted(bounds)
    assert max((item["value"] for item in data["results"].values()), default=0.0) <= bounds[-1]
    for item in data["thresholds"]:
        assert set(item) == {"value", "bgColor", "textColor"}
        assert all(re.fullmatch(r"#[0-9a-f]{6}", item[name]) for name in ("bgColor", "textColor"))
    # Its page takes a file for one graph where `results` has no `results` of its own.
    assert "results" not in data["results"]


@pytest.mark.parametrize("make", [chain, branching])
def test_every_judged_node_has_a_number(make: Any, tmp_path: Path) -> None:
    result = layered(make(), tmp_path)
    write_node_data(result, tmp_path / "overlay.json")
    data = json.loads((tmp_path / "overlay.json").read_text("utf-8"))
    check(data)
    known = {node.name for node in make().graph.node} | {"choice/then_branch/inner"}
    assert set(data["results"]) <= known
    assert len(data["results"]) >= 3
    assert all(item["value"] <= 1.0 for item in data["results"].values())


def test_a_node_at_fault_is_beyond_one(tmp_path: Path) -> None:
    with planted({"ort": Fault("b", "float32", np.pad(np.float64([[0.25]]), ((3, 1), (2, 1))))}):
        data = node_data(layered(chain(), tmp_path))
    check(data)
    assert data["results"]["squash"]["value"] > 1000
    assert data["results"]["product"]["value"] <= 1


def test_infinite_errors_are_numbers_and_nodes_without_names_are_known_by_their_tensors(tmp_path: Path) -> None:
    proto = model([NODE("Tanh", ["x"], ["t"]), NODE("Exp", ["t"], ["y"], "last")])
    with planted({"ort": Fault("t", "float32", np.pad(np.float64([[np.nan]]), ((3, 1), (2, 1))))}):
        data = node_data(layered(proto, tmp_path))
    check(data)
    assert set(data["results"]) == {"t", "last"}
    assert data["results"]["t"]["value"] == data["thresholds"][-1]["value"]
