"""Intermediate tensors of a run, a bounded number of bytes at a time, on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import onnx
import pytest
from tests.exporter.diffing.plain_models import branching, chain, context, rows

from hsm_export.diffing.layers import tapping
from hsm_export.diffing.layers.graph import LayerGraph
from hsm_export.diffing.layers.spool import Spool
from hsm_export.diffing.layers.tapping import expose, tap, wanted
from hsm_export.limits import LimitError, Limits, resident_bytes
from hsm_export.runtimes import get


def test_every_tensor_of_the_layers_is_wanted_once() -> None:
    assert wanted(LayerGraph(chain())) == ("a", "b", "y")
    assert wanted(LayerGraph(branching())) == ("a", "mean", "top", "positive", "b", "last", "y")


def test_exposing_changes_a_copy() -> None:
    proto = chain()
    changed = expose(proto, LayerGraph(proto), ["a", "y", "a"])
    assert [value.name for value in changed.graph.output] == ["y", "a"]
    assert [value.name for value in proto.graph.output] == ["y"]


@pytest.mark.parametrize("make", [chain, branching])
def test_pieces_hold_what_one_run_holds(make: Any, tmp_path: Path) -> None:
    proto = make()
    graph = LayerGraph(proto)
    spools = []
    for name, limit in (("whole", 1 << 20), ("pieces", 1)):
        (tmp_path / name).mkdir()
        spools.append(Spool(tmp_path / name))
        with (
            mock.patch.object(Limits, "chunk_bytes", lambda self, element, limit=limit: limit),
            mock.patch.object(tapping, "_run_into", wraps=tapping._run_into) as runs,
        ):
            tap(get("ort"), context(proto, tmp_path), graph, rows(), spools[-1], Limits())
        assert runs.call_count == (1 if name == "whole" else len(graph.layers))
    assert set(spools[0].names()) == set(spools[1].names()) == {"x", *wanted(graph)}
    for name in spools[0].names():
        np.testing.assert_array_equal(spools[0].read(name), spools[1].read(name))


def test_a_layer_is_judged_by_tensors_of_one_run(tmp_path: Path) -> None:
    """ONNX Runtime joins a product and a sum where nobody looks at what is between them."""
    rng = np.random.default_rng(0)
    weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((512, 64), (64,)))
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "weight"], ["product"], name="product"),
        onnx.helper.make_node("Add", ["product", "bias"], ["y"], name="sum"),
    ]
    border = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [32, size])
        for name, size in (("x", 512), ("y", 64))
    ]
    weights = [onnx.numpy_helper.from_array(weight, "weight"), onnx.numpy_helper.from_array(bias, "bias")]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "joined", border[:1], border[1:], weights),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )
    graph, spool = LayerGraph(proto), Spool(tmp_path)
    feed = {"x": rng.normal(size=(32, 512)).astype(np.float32)}
    with mock.patch.object(Limits, "chunk_bytes", lambda self, element: 1):
        tap(get("ort"), context(proto, tmp_path), graph, feed, spool, Limits())
    product, y = spool.read("product", 1), spool.read("y", 1)
    assert product is not None and y is not None
    np.testing.assert_array_equal(product + bias, y)


def test_what_a_runtime_raises_comes_through(tmp_path: Path) -> None:
    def broken(run: Any) -> Any:
        raise RuntimeError("no such kernel")

    runtime = replace(get("ort"), runner=broken)
    with pytest.raises(RuntimeError, match="no such kernel"):
        tap(runtime, context(chain(), tmp_path), LayerGraph(chain()), rows(), Spool(tmp_path), Limits())


def test_no_run_begins_beyond_a_cap(tmp_path: Path) -> None:
    graph, run = LayerGraph(chain()), context(chain(), tmp_path)
    with pytest.raises(LimitError, match=r"time limit .* running ort"):
        tap(get("ort"), run, graph, rows(), Spool(tmp_path), Limits(seconds=1e-9))
    with pytest.raises(LimitError, match="memory limit of 1 MB was reached while running ort"):
        tap(get("ort"), run, graph, rows(), Spool(tmp_path), Limits(bytes=10**6))


def test_less_memory_takes_smaller_pieces() -> None:
    assert Limits().chunk_bytes(4) == 1 << 28
    assert Limits().chunk_bytes(8) == 1 << 27
    assert Limits(bytes=resident_bytes() + (1 << 24)).chunk_bytes(4) < 1 << 24
    assert Limits(bytes=1).chunk_bytes(4) >= 1


@pytest.mark.parametrize("small", [0, 8])
def test_a_spool_maps_large_arrays_and_keeps_the_first(small: int, tmp_path: Path) -> None:
    spool = Spool(tmp_path, small)
    spool.write("/a/../b\0", np.float32([1, 2]))
    spool.write("/a/../b\0", np.float32([3]))
    assert isinstance(spool.read("/a/../b\0"), np.memmap) == (small == 0)
    np.testing.assert_array_equal(spool.read("/a/../b\0"), [1, 2])
    assert spool.read("nobody") is None
    assert "/a/../b\0" in spool
    assert spool.bytes == 8


def test_a_spool_keeps_bfloat16_scalars_and_empty_arrays(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write("b", np.float32([1.5, -2.0]).astype(ml_dtypes.bfloat16))
    spool.write("s", np.float64(3.0).reshape(()))
    spool.write("e", np.zeros((0, 4), np.float32))
    np.testing.assert_array_equal(spool.read("b"), np.float32([1.5, -2.0]))
    assert spool.read("s") == 3.0
    empty = spool.read("e")
    assert empty is not None
    assert empty.shape == (0, 4)
