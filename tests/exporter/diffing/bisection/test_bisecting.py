"""Bisection: the nodes to blame are found, in O(log n) runs, and nothing else is."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from tests.exporter.runtimes.fused import needs_library

from hsm_export.diffing.bisection import hybrid
from hsm_export.diffing.bisection.bisecting import bisect
from hsm_export.diffing.bisection.hybrid import Hybrid, Piece, RuntimeWay, way
from hsm_export.diffing.bisection.search import CulpritSearch
from hsm_export.diffing.bisection.whole_graph import from_bodies
from hsm_export.diffing.layers.graph import LayerGraph
from hsm_export.diffing.results import Bisection
from hsm_export.errors import HsmExportError, UsageError
from hsm_export.runtimes.runtime import RunContext

Array = NDArray[Any]
FEED: dict[str, Array] = {"x": np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)}


def chain(count: int) -> onnx.ModelProto:
    """Make a graph of nodes that pass on what they read, and so every error too."""
    lines, last = [], "x"
    for index in range(count // 2):
        lines += [f"t{index} = Max({last}, {last})", f"s{index} = Min(t{index}, t{index})"]
        last = f"s{index}"
    lines.append(f"y = Identity({last})")
    text = "\n".join(lines)
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[batch, length, 8] x) => (float[batch, length, 8] y) '
        f"{{ {text} }}"
    )
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def context(model: onnx.ModelProto, precision: str = "fp32") -> RunContext:
    return RunContext(model, Path(), precision)


class Broken(RuntimeWay):
    """ONNX Runtime, but for the results of some nodes."""

    def __init__(self, nodes: Mapping[str, float], noise: float = 0.0) -> None:
        super().__init__("broken", "ort")
        self._nodes = nodes
        self._rng = np.random.default_rng(1)
        self._noise = noise

    def open(self, context: RunContext, piece: Piece) -> Any:
        inner = super().open(context, piece)
        name = piece.name
        outer = self

        class Node:
            def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
                results = inner.run(feed)
                if name in outer._nodes:
                    results = {key: value + np.float32(outer._nodes[name]) for key, value in results.items()}
                if outer._noise and name == "t1":
                    results = {key: value + outer._rng.normal(0, outer._noise) for key, value in results.items()}
                return results

            def close(self) -> None:
                inner.close()

        return Node()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Let the way "onnx-reference" be ONNX Runtime with planted errors; the test says where, by node name."""
    planted: dict[str, Any] = {"nodes": {}, "noise": 0.0}

    def planted_way(name: str, precision: str) -> hybrid.Way:
        return Broken(planted["nodes"], planted["noise"]) if name == "onnx-reference" else way(name, precision)

    monkeypatch.setattr("hsm_export.diffing.bisection.bisecting.way", planted_way)
    yield planted


def culprits(found: Bisection) -> list[str]:
    return [name for name, _ in found.nodes]


@pytest.mark.parametrize("count", [10, 40, 160])
@pytest.mark.parametrize("place", [0.0, 0.37, 1.0])
def test_one_wrong_node_is_found_in_logarithmic_runs(broken: dict[str, Any], count: int, place: float) -> None:
    model = chain(count)
    wrong = model.graph.node[int(place * (len(model.graph.node) - 1))].name
    broken["nodes"] = {wrong: 1e-2}
    found = bisect(context(model), "ort", "onnx-reference", FEED, tolerance=1e-4)
    assert culprits(found) == [wrong]
    assert found.reason is None and found.noise == 0.0
    assert found.error > found.tolerance == 1e-4
    # Three of each side show the noise, one measures the answer.
    assert found.candidates == len(model.graph.node)
    assert found.runs <= 7 + math.ceil(math.log2(found.candidates)) + 1


def test_several_nodes_that_fail_only_together_are_all_found(broken: dict[str, Any]) -> None:
    model = chain(60)
    broken["nodes"] = {"s3": 6e-4, "t11": 6e-4, "s25": 6e-4}
    found = bisect(context(model), "ort", "onnx-reference", FEED, tolerance=1.5e-3)
    assert culprits(found) == ["s3", "t11", "s25"]
    assert found.error > found.tolerance
    assert found.runs <= 7 + 3 * (math.ceil(math.log2(found.candidates)) + 2) + 3


def test_the_answer_is_minimal(broken: dict[str, Any]) -> None:
    model = chain(40)
    broken["nodes"] = {"t2": 1e-3, "s9": 5e-2}
    found = bisect(context(model), "ort", "onnx-reference", FEED, tolerance=2e-2)
    assert culprits(found) == ["s9"]


def test_noise_is_measured_and_its_node_is_named(broken: dict[str, Any]) -> None:
    model = chain(40)
    broken.update(nodes={"s9": 1e-2}, noise=1e-6)
    found = bisect(context(model), "ort", "onnx-reference", FEED, tolerance=1e-9)
    assert culprits(found) == ["s9"]
    assert found.noise > 0
    assert found.tolerance >= 2 * found.noise
    assert any("two results for the same inputs at t1 (Max)" in note for note in found.notes)


def test_a_node_whose_noise_exceeds_the_tolerance_is_to_blame(broken: dict[str, Any]) -> None:
    broken["noise"] = 1e-2
    found = bisect(context(chain(40)), "ort", "onnx-reference", FEED, tolerance=1e-6)
    assert found.nodes == (("t1", "Max"),)
    assert found.noise > found.tolerance == 1e-6


def test_equal_ways_have_nothing_to_find() -> None:
    found = bisect(context(chain(10)), "ort", "onnx64", FEED, tolerance=1e-3)
    assert found.nodes == () and "give the same numbers" in str(found.reason)


def test_a_good_side_that_fails_is_told(broken: dict[str, Any]) -> None:
    broken["nodes"] = {"s1": 1.0}
    reference = np.full((2, 5, 8), 100.0)
    found = bisect(context(chain(10)), "ort", "onnx-reference", FEED, reference=reference, tolerance=1e-3)
    assert found.nodes == () and "no good side" in str(found.reason)


def test_a_nan_counts_as_a_failure(broken: dict[str, Any]) -> None:
    broken["nodes"] = {"t4": float("nan")}
    found = bisect(context(chain(20)), "ort", "onnx-reference", FEED, tolerance=1e-3)
    assert culprits(found) == ["t4"]


def test_a_fault_of_the_whole_graph_alone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsm_export.diffing.bisection.whole_graph.WholeGraph.error", lambda self, reference: 0.5)
    found = bisect(context(chain(10)), "ort", "onnx64", FEED, tolerance=1e-3)
    assert found.nodes == () and "only the whole graph is off, by 0.5" in str(found.reason)


def test_the_precision_of_one_node_is_blamed() -> None:
    """In float16 the square of 300 overflows; every other node is exact."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]> g (float16[4] x) => (float16[4] y)
           { a = Identity(x) b = Add(a, a) c = Mul(b, b) d = Sqrt(c) y = Sub(d, a) }"""
    )
    for node in model.graph.node:
        node.name = node.op_type
    feed = {"x": np.array([1, 2, 3, 300], dtype=np.float16)}
    found = bisect(context(model, "fp16"), "fp32", "fp16", feed)
    assert found.nodes == (("Mul", "Mul"),)


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        ("ort", "ort", "twice"),
        ("ort", "nothing", "no runtime"),
        ("ort", "torch", "whole models"),
        ("torch64", "ort", "there is none"),
        ("ort", "tensorrt", "whole models"),
    ],
)
def test_impossible_ways_are_refused(good: str, bad: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        bisect(context(chain(4)), good, bad, FEED)


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(UsageError, match="no output 'z'"):
        bisect(context(chain(4)), "ort", "onnx64", FEED, output="z")


def test_a_node_that_a_runtime_cannot_run_is_named() -> None:
    model = chain(4)
    model.graph.node[1].domain = "elsewhere"
    model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    with pytest.raises(HsmExportError, match=r"ort cannot run node s0 \(Min\) on its own"):
        bisect(context(model), "ort", "onnx64", FEED)


def test_tensors_are_released_and_nodes_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybrid, "_OPEN_NODES", 3)
    model = chain(20)
    with Hybrid(context(model), LayerGraph(model), way("ort", "fp32"), way("onnx64", "fp32")) as running:
        once = running.run(FEED, range(0, 20, 2))
        assert len(running._open) == 3
        again = running.run(FEED, range(0, 20, 2))
    assert not running._open
    np.testing.assert_array_equal(once["y"], again["y"])


def weighted(weights: Collection[float], limit: float) -> CulpritSearch:
    return CulpritSearch(lambda chosen: sum(list(weights)[i] for i in chosen) > limit, len(weights))


def test_the_search_finds_minimal_sets_in_few_runs() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        count = int(rng.integers(1, 300))
        weights = np.zeros(count)
        guilty = rng.choice(count, size=min(count, int(rng.integers(1, 5))), replace=False)
        weights[guilty] = rng.uniform(0.5, 1.5, guilty.size)
        limit = float(rng.uniform(0, weights.sum()))
        runs = 0

        def fails(chosen: frozenset[int], weights: Array = weights, limit: float = limit) -> bool:
            nonlocal runs
            runs += 1
            return float(weights[list(chosen)].sum()) > limit

        found = CulpritSearch(fails, count).run()
        assert weights[list(found)].sum() > limit
        assert all(weights[[other for other in found if other != one]].sum() <= limit for one in found)
        assert runs <= len(guilty) * (math.ceil(math.log2(count)) + 2) + len(guilty) ** 2


def test_some_nodes_are_run_from_their_bodies() -> None:
    from hsm_operators import functions_for

    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21, "hsm": 1]> g (float[1, length, 4] x) => (float[1, length, 4] y)
           { a = hsm.TokenShift<shifts = [1, 2]>(x) y = hsm.TokenShift<shifts = [1, 2]>(a) }"""
    )
    model.graph.node[0].name, model.graph.node[1].name = "first", "second"
    model.functions.extend(functions_for(model))
    changed = from_bodies(model, {"second"})
    assert [node.domain for node in changed.graph.node] == ["hsm", "hsm_export.bodies.hsm"]
    assert {function.domain for function in changed.functions} == {"hsm", "hsm_export.bodies.hsm"}
    onnx.checker.check_model(changed)


def tokens() -> dict[str, Array]:
    return {"tokens": np.random.default_rng(2).integers(0, 256, (2, 11))}


def sourced(model: onnx.ModelProto, checkpoint: Path) -> RunContext:
    from hsm_models.checkpoint import load_checkpoint

    return RunContext(model, checkpoint.parent, "fp32", lambda: load_checkpoint(checkpoint))


def test_a_file_that_is_right_has_nothing_against_its_source(whole: Path, checkpoint: Path) -> None:
    found = bisect(sourced(onnx.load(whole), checkpoint), "torch64", "onnx64", tokens(), tolerance=1e-6)
    assert found.nodes == () and "nothing to find" in str(found.reason)


def test_a_wrong_attribute_is_found_against_the_source(whole: Path, checkpoint: Path) -> None:
    model = onnx.load(whole)
    node = next(node for node in model.graph.node if node.domain == "hsm")
    shifts = next(item for item in node.attribute if item.name == "shifts")
    shifts.ints[-1] += 1
    found = bisect(sourced(model, checkpoint), "torch64", "onnx64", tokens(), tolerance=1e-6)
    assert found.nodes == ((node.name, node.op_type),)
    assert found.runs <= 7 + math.ceil(math.log2(found.candidates)) + 1


@pytest.mark.parametrize("name", ["layers.0.feed_forward.up.weight", "embedding.weight"])
def test_a_changed_weight_is_found_against_the_source(whole: Path, checkpoint: Path, name: str) -> None:
    model = onnx.load(whole)
    tensor = next(item for item in model.graph.initializer if item.name.removesuffix(".T") == name)
    changed = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    found = bisect(sourced(model, checkpoint), "torch", "ort", tokens(), tolerance=1e-4)
    assert [node for node, _ in found.nodes] == [name.removesuffix(".weight")]


def test_a_node_outside_modules_is_found_in_its_layer(whole: Path, checkpoint: Path) -> None:
    """The sums of a layer have no module of their own: the whole layer is named."""
    model = onnx.load(whole)
    node = next(node for node in model.graph.node if node.name == "layers.1.Add")
    node.op_type = "Sub"
    found = bisect(sourced(model, checkpoint), "torch64", "onnx64", tokens(), tolerance=1e-6)
    assert [node for node, _ in found.nodes] == ["layers.1"]


@needs_library
def test_kernels_are_confirmed_in_whole_graphs(whole: Path, checkpoint: Path) -> None:
    """The kernels are right: they round differently, and that little is searched for."""
    model = onnx.load(whole)
    found = bisect(sourced(model, checkpoint), "ort", "ort-fused", tokens())
    operators = {node.name: node.op_type for node in model.graph.node if node.domain == "hsm"}
    assert set(found.nodes) <= set(operators.items())
    assert (found.reason is None) == any("whole graphs" in note for note in found.notes)
