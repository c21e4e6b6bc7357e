"""Expert choices: near ties are excused and counted, everything else is not."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.exporter.validation.routed import NODES, write_routed
from tests.exporter.validation.tiny import change_weight

import hsm_export.runtimes as registry
from hsm_export.runtimes import get
from hsm_export.runtimes.routing import RoutedNode
from hsm_export.runtimes.runtime import RunContext
from hsm_export.validation import validate
from hsm_export.validation.flips import FlipCounter

Change = Callable[[RunContext], RunContext]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], str]:
    """Return a function that registers ONNX Runtime on a changed graph as a runtime of its own."""

    def register(change: Change) -> str:
        module = types.ModuleType("hsm_export.runtimes.faulty")
        runtime = dataclasses.replace(
            get("ort"), name="faulty", runner=lambda context: get("ort").runner(change(context))
        )
        module.FAULTY = runtime  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "hsm_export.runtimes.faulty", module)
        monkeypatch.setitem(registry._HOMES, "faulty", ("faulty", "FAULTY"))
        return "faulty"

    return register


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("spread", [1.0, 1e-6])
def test_healthy_experts_pass(tmp_path: Path, precision: str, spread: float) -> None:
    result = validate(write_routed(tmp_path / "m.onnx", precision, spread=spread))
    assert result.passed, result.summary
    for report in (report for report in result.runtimes if report.verdict != "skipped"):
        assert report.flips is not None
        assert report.flips.choices > 0
        assert report.flips.unexcused == 0
        assert {item.output for item in report.worst} == {"logits", *(f"{node}.routing_logits" for node in NODES)}


def _with_weight(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def changed(context: RunContext) -> RunContext:
        from onnx import numpy_helper

        model = type(context.model)()
        model.CopyFrom(context.model)
        tensor = next(item for item in model.graph.initializer if item.name == name)
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
        return dataclasses.replace(context, model=model)

    return changed


def _swap_experts(array: np.ndarray) -> np.ndarray:
    array[0, [0, 1]] = array[0, [1, 0]]
    return array


def test_swapped_expert_is_caught_and_located(tmp_path: Path, faulty: Callable[[Change], str]) -> None:
    name = faulty(_with_weight("o", _swap_experts))
    result = validate(write_routed(tmp_path / "m.onnx"), runtimes=[name])
    assert not result.passed
    report = result.runtimes[-1]
    assert report.departs is not None
    assert "up to layers.0.source" in report.departs
    assert "layers.0.destination (ExpertMatMulSum)" in report.departs


def test_wrong_router_is_caught_by_its_logits(tmp_path: Path, faulty: Callable[[Change], str]) -> None:
    def swap(array: np.ndarray) -> np.ndarray:
        array[:, [0, 1]] = array[:, [1, 0]]
        return array

    result = validate(write_routed(tmp_path / "m.onnx"), runtimes=[faulty(_with_weight("sel_o", swap))])
    assert not result.passed
    assert any(failure.output == f"{NODES[1]}.routing_logits" for failure in result.failures)


def test_noisy_router_flips_near_ties_but_its_logits_give_it_away(
    tmp_path: Path, faulty: Callable[[Change], str]
) -> None:
    rng = np.random.default_rng(2)
    name = faulty(_with_weight("sel_v", lambda a: a + (rng.standard_normal(a.shape) * 0.02).astype(a.dtype)))
    result = validate(write_routed(tmp_path / "m.onnx"), runtimes=[name])
    flips = result.runtimes[-1].flips
    assert not result.passed
    assert flips is not None
    assert flips.excused > 0
    assert flips.largest_margin <= flips.router_error


def test_swapped_expert_in_the_file_fails_against_itself_only_with_a_reference(tmp_path: Path) -> None:
    """Without a checkpoint the file is its own truth; the report says so."""
    path = write_routed(tmp_path / "m.onnx")
    change_weight(path, "v", _swap_experts)
    result = validate(path)
    assert result.passed
    assert any("does not prove the export" in warning for warning in result.warnings)


def _logits(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(1, len(rows), 1, -1)


def _counted(arbiter: np.ndarray, forced: np.ndarray, free: np.ndarray) -> tuple[Any, np.ndarray]:
    node = RoutedNode("n", 1)
    counter = FlipCounter([node])
    counter.measure_router({node.logits: arbiter}, {node.logits: forced})
    rows = counter.count({node.logits: arbiter}, {node.logits: free})
    return counter.result(), rows


def test_flip_within_the_router_error_is_excused() -> None:
    arbiter, other = _logits([1.0, 1.01], [3.0, 0.0]), _logits([1.01, 1.0], [3.0, 0.0])
    flips, rows = _counted(arbiter, other, other)
    assert (flips.excused, flips.consequent, flips.unexcused, flips.choices) == (1, 0, 0, 2)
    assert flips.largest_margin == pytest.approx(0.01)
    assert rows.tolist() == [False]


def test_flip_beyond_the_router_error_is_not_excused() -> None:
    arbiter = _logits([1.0, 2.0], [3.0, 0.0])
    flips, _ = _counted(arbiter, arbiter + 1e-6, _logits([2.0, 1.0], [3.0, 0.0]))
    assert (flips.excused, flips.consequent, flips.unexcused) == (0, 0, 1)


def test_flip_after_an_excused_one_is_its_consequence() -> None:
    nodes = [RoutedNode("a", 1), RoutedNode("b", 1)]
    arbiter = OrderedDict({"a.routing_logits": _logits([1.0, 1.01]), "b.routing_logits": _logits([5.0, 0.0])})
    forced = {"a.routing_logits": _logits([1.01, 1.0]), "b.routing_logits": _logits([5.0, 0.0])}
    counter = FlipCounter(nodes)
    counter.measure_router(arbiter, forced)
    counter.count(arbiter, {**forced, "b.routing_logits": _logits([0.0, 5.0])})
    flips = counter.result()
    assert (flips.excused, flips.consequent, flips.unexcused) == (1, 1, 0)
