"""What a node inherits is told from what it gets wrong itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.exporter.diffing.plain_models import NODE, branching, chain, context, model, rows
from tests.studies.planting import Fault, planted

from hsm_export.diffing.layers.graph import LayerGraph
from hsm_export.diffing.layers.layerwise import Comparison
from hsm_export.diffing.layers.spool import Spool
from hsm_export.diffing.layers.tapping import tap
from hsm_export.diffing.results import LayerDiff
from hsm_export.limits import LimitError, Limits
from hsm_export.runtimes import get


def compared(
    proto: onnx.ModelProto,
    folder: Path,
    fault: Fault | None = None,
    feed: dict[str, Any] | None = None,
    lengths: Any = None,
    precision: str = "fp32",
) -> dict[str, LayerDiff]:
    """Compare `ort`, with a fault or without, to the file's maths; return the measurements by node."""
    graph, run = LayerGraph(proto), context(proto, folder, precision)
    spools = {}
    with planted({"ort": fault} if fault else {}):
        for name in ("onnx64", "ort"):
            (folder / name).mkdir()
            spools[name] = Spool(folder / name)
            tap(get(name), run, graph, feed or rows(), spools[name], Limits())
    comparison = Comparison(graph, run, "rows", lengths)
    found = comparison.layers(spools["onnx64"], {"ort": spools["ort"]}, Limits())
    return {item.node: item for _, items in found for item in items}


def one(shape: tuple[int, ...], place: tuple[int, ...], size: float) -> np.ndarray[Any, Any]:
    """Return zeros with a single other number."""
    pattern = np.zeros(shape)
    pattern[place] = size
    return pattern


@pytest.mark.parametrize("make", [chain, branching])
def test_healthy_layers_pass(make: Any, tmp_path: Path) -> None:
    found = compared(make(), tmp_path)
    assert len(found) >= 3
    assert all(item.passed and item.own is not None and item.threshold is not None for item in found.values())


def test_the_node_at_fault_and_those_that_inherit_it(tmp_path: Path) -> None:
    found = compared(chain(), tmp_path, Fault("b", "float32", one((5, 4), (3, 2), 1e-3)))
    assert found["product"].passed
    guilty = found["squash"]
    assert not guilty.passed
    assert guilty.own == pytest.approx(1e-3, rel=1e-3)
    assert guilty.errors.worst_index == (3, 2)
    assert "own error 0.001, allowed" in str(guilty.reason)
    victim = found["scale"]
    assert victim.passed
    assert victim.own is not None
    assert victim.own < 1e-6
    assert victim.total == pytest.approx(3e-3, rel=1e-3)
    assert victim.inherited == pytest.approx(3e-3, rel=1e-3)


def test_amplification_is_that_of_the_relative_error(tmp_path: Path) -> None:
    nodes = [NODE("Abs", ["x"], ["a"], "source"), NODE("Pow", ["a", "eight"], ["y"], "power")]
    feed = {"x": np.full((2, 4), 2.0, np.float32)}
    proto = model(nodes, {"eight": np.float32(8.0)})
    found = compared(proto, tmp_path, Fault("a", "float32", one((2, 4), (0, 0), 2e-3)), feed)
    assert found["power"].amplification == pytest.approx(8, rel=0.02)
    assert found["power"].passed


def test_a_subtraction_that_cancels_is_not_at_fault(tmp_path: Path) -> None:
    """1000.1 - 1000 makes a relative error of 1e-7 one of 1e-3; the node's own maths is exact all the same."""
    nodes = [NODE("Add", ["x", "large"], ["a"], "up"), NODE("Sub", ["a", "large"], ["y"], "down")]
    found = compared(model(nodes, {"large": np.float32(1000.0)}), tmp_path)
    assert found["down"].passed
    assert found["down"].amplification is not None
    assert found["down"].amplification > 100


def test_a_captured_tensor_is_an_input_of_the_node_with_the_subgraph(tmp_path: Path) -> None:
    found = compared(branching(), tmp_path, Fault("mean", "float32", np.full(4, 1e-3)))
    assert [name for name, item in found.items() if not item.passed] == ["mean"]
    inheriting = found["scan"].inherited
    assert inheriting is not None
    assert inheriting > 1e-4


def test_a_fault_in_a_node_with_a_subgraph(tmp_path: Path) -> None:
    found = compared(branching(), tmp_path, Fault("b", "float32", np.full((5, 4), 1e-3)))
    assert [name for name, item in found.items() if not item.passed] == ["choice"]


def test_a_wrong_nan_is_an_infinite_error(tmp_path: Path) -> None:
    found = compared(chain(), tmp_path, Fault("a", "float32", one((5, 4), (1, 1), float("nan"))))
    assert found["product"].own == float("inf")
    assert found["product"].errors.worst_index == (1, 1)
    assert found["squash"].passed  # tanh(NaN) is NaN
    assert found["scale"].passed


def test_tokens_beyond_a_rows_length_do_not_count(tmp_path: Path) -> None:
    nodes = [NODE("Tanh", ["x"], ["a"], "squash"), NODE("Relu", ["a"], ["y"], "cut")]
    proto = model(nodes, shape=["b", "t", 4])
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    beyond = Fault("a", "float32", one((2, 3, 4), (1, 2, 0), 1.0))
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    assert not compared(proto, tmp_path / "without", beyond, feed)["squash"].passed
    found = compared(proto, tmp_path / "with", beyond, feed, lengths=np.int64([3, 2]))
    assert found["squash"].passed
    assert found["cut"].total == 0 or found["cut"].total < 1e-6


def test_a_result_of_another_shape(tmp_path: Path) -> None:
    graph = LayerGraph(chain())
    run = context(chain(), tmp_path)
    spools = {}
    for name in ("onnx64", "ort"):
        (tmp_path / name).mkdir()
        spools[name] = Spool(tmp_path / name)
    tap(get("onnx64"), run, graph, rows(), spools["onnx64"], Limits())
    for name, array in rows().items():
        spools["ort"].write(name, array)
    spools["ort"].write("a", np.zeros((5, 3), np.float32))
    found = list(Comparison(graph, run, "rows").layers(spools["onnx64"], {"ort": spools["ort"]}, Limits()))
    (item,) = found[0][1]
    assert item.own == float("inf")
    assert "its shape is (5, 3) instead of (5, 4)" in str(item.reason)


def test_where_inputs_are_not_shown_only_the_whole_error_is_told(tmp_path: Path) -> None:
    graph, run = LayerGraph(chain()), context(chain(), tmp_path)
    spools = {}
    for name in ("onnx64", "ort"):
        (tmp_path / name).mkdir()
        spools[name] = Spool(tmp_path / name)
    tap(get("onnx64"), run, graph, rows(), spools["onnx64"], Limits())
    spools["ort"].write("b", np.asarray(spools["onnx64"].read("b")) + 0.5)
    (item,) = [
        item
        for _, items in Comparison(graph, run, "rows").layers(spools["onnx64"], {"ort": spools["ort"]}, Limits())
        for item in items
    ]
    assert (item.node, item.own, item.threshold, item.passed) == ("squash", None, None, True)
    assert item.total == pytest.approx(0.5)


def test_a_cap_on_time_ends_it(tmp_path: Path) -> None:
    graph, run = LayerGraph(chain()), context(chain(), tmp_path)
    layers = Comparison(graph, run, "rows").layers(Spool(tmp_path), {}, Limits(seconds=1e-9))
    with pytest.raises(LimitError, match="time limit of 1e-09 s was reached while comparing layer product"):
        next(layers)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_rounds_and_is_not_blamed(precision: str, tmp_path: Path) -> None:
    import ml_dtypes

    kind: Any = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}[precision]
    element = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    weights = {
        "w": np.random.default_rng(0).standard_normal((4, 4)).astype(kind),
        "scale": np.ones(4).astype(kind),
    }
    nodes = [
        NODE("MatMul", ["x", "w"], ["a"], "product"),
        NODE("LayerNormalization", ["a", "scale"], ["b"], "norm"),
        NODE("Softmax", ["b"], ["y"], "softmax"),
    ]
    proto = model(nodes, weights, kind=element)
    feed = {"x": rows()["x"].astype(kind).astype(np.float32)}
    found = compared(proto, tmp_path, feed=feed, precision=precision)
    assert all(item.passed for item in found.values()), [item.reason for item in found.values()]
    assert {item.dtype for item in found.values()} == {"float16" if precision == "fp16" else "bfloat16"}


def choosing() -> onnx.ModelProto:
    """A graph whose floating-point output depends on integers that it chooses."""
    weights = {"w": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6), "e": np.arange(12, dtype=np.float32)}
    nodes = [
        NODE("MatMul", ["x", "w"], ["m"], "product"),
        NODE("ArgMax", ["m"], ["i"], "choice", axis=-1, keepdims=0),
        NODE("Gather", ["e", "i"], ["y"], "lookup"),
    ]
    return model(nodes, weights, output_shape=("n",))


def test_integers_are_layers_and_exact(tmp_path: Path) -> None:
    found = compared(choosing(), tmp_path, Fault("i", "int64", one((5,), (2,), 1)))
    assert found["product"].passed and found["lookup"].passed
    wrong = found["choice"]
    assert (wrong.own, wrong.dtype, wrong.errors.worst_index) == (1.0, "int64", (2,))
    assert "has to be equal" in str(wrong.reason)
    assert found["lookup"].inherited == 1.0


def test_healthy_integers_pass(tmp_path: Path) -> None:
    found = compared(choosing(), tmp_path)
    assert found["choice"].passed and found["choice"].own == 0.0


def test_near_ties_of_integers_are_nobodys_fault(tmp_path: Path) -> None:
    # In float32 both columns are one number, in float64 the second is larger.
    weights = {"half": np.float32([0.5, 0.5 + 2**-25])}
    nodes = [
        NODE("ReduceSum", ["x"], ["s"], "total"),
        NODE("Sub", ["s", "half"], ["d"], "difference"),
        NODE("ArgMin", ["d"], ["i"], "choice", axis=-1),
        NODE("Cast", ["i"], ["y"], "cast", to=onnx.TensorProto.FLOAT),
    ]
    found = compared(model(nodes, weights, output_shape=None), tmp_path, feed={"x": np.full((2, 4), 1e4, np.float32)})
    assert found["choice"].passed
