"""Structural differences of two files: planted one by one, and found again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from tests.exporter.validation.routed import write_routed
from tests.exporter.validation.tiny import tiny_model, write_tiny

from hsm_export.diffing.files.matching import Graph, match, moved
from hsm_export.diffing.files.rendering import render_structure, structure_markdown
from hsm_export.diffing.files.results import StructureDiff
from hsm_export.diffing.files.structure import diff_structure, node_changes
from hsm_export.errors import BadInputError

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tiny_model(), tmp_path / "old.onnx", version="1", task="language_model")


def changed(path: Path, change: Change, name: str = "new.onnx") -> Path:
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path.with_name(name)))
    return path.with_name(name)


def difference(path: Path, change: Change) -> StructureDiff:
    return diff_structure(path, changed(path, change))


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(item for item in model.graph.node if item.name == name)


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(item for item in model.graph.initializer if item.name == name)


def set_weight(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], Any]) -> None:
    tensor = weight(model, name)
    array = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def rename_everything(model: onnx.ModelProto, keep: tuple[str, ...] = ()) -> None:
    """Give every operator, tensor, weight and the graph another name; inputs and outputs too."""
    rng = random.Random(0)
    names = {name: name for name in ("", *keep)}

    def new(name: str) -> str:
        return names.setdefault(name, f"t{rng.randrange(10**9)}")

    for item in (*model.graph.node, *(n for body in model.functions for n in body.node)):
        item.name = new(item.name)
        for field in (item.input, item.output):
            field[:] = [new(name) for name in field]
    for body in model.functions:
        for field in (body.input, body.output):
            field[:] = [new(name) for name in field]
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = new(value.name)
    graph.name = "another"


def test_equal_files_are_identical(tiny: Path) -> None:
    found = diff_structure(tiny, tiny)
    assert found.identical and found.equal_weights == 5 and found.summary.endswith("nothing changed")
    assert found.old_bytes == tiny.stat().st_size and found.old_nodes == 6


@pytest.mark.parametrize("routed", [False, True])
def test_a_renamed_file_has_other_names_only(tmp_path: Path, tiny: Path, routed: bool) -> None:
    path = write_routed(tmp_path / "old.onnx") if routed else tiny
    found = difference(path, rename_everything)
    assert found.only_names and found.summary.endswith("only names changed"), found.summary
    assert {change.kind for change in (*found.nodes, *found.weights)} == {"renamed"}
    assert len(found.nodes) == (2 if routed else found.old_nodes)  # the others never had a name


def test_finds_an_attribute(tiny: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        node(model, "norm").attribute[0].f = 1e-3

    found = difference(tiny, change)
    (item,) = found.nodes
    assert (item.kind, item.node, item.operator) == ("changed", "norm", "LayerNormalization")
    assert item.details == ("attribute epsilon: 1e-05 → 0.001",)
    assert "1 operator changed" in found.summary


@pytest.mark.parametrize("renamed", [False, True])
def test_finds_an_operator_that_was_put_in(tiny: Path, renamed: bool) -> None:
    def change(model: onnx.ModelProto) -> None:
        if renamed:
            rename_everything(model)
        gelu = next(item for item in model.graph.node if item.op_type == "Gelu")
        extra = helper.make_node("Relu", [gelu.output[0]], ["extra_out"], "extra")
        index = list(model.graph.node).index(gelu)
        model.graph.node[index + 1].input[0] = "extra_out"
        model.graph.node.insert(index + 1, extra)

    found = difference(tiny, change)
    by_kind = {item.kind: item for item in found.nodes if item.kind != "renamed"}
    assert set(by_kind) == {"added", "changed"} and by_kind["added"].node == "extra"
    assert by_kind["changed"].operator == "MatMul" and by_kind["changed"].details[0].endswith("→ extra_out")
    back = diff_structure(changed(tiny, change), tiny)
    assert {item.kind for item in back.nodes} - {"renamed"} == {"removed", "changed"}


def test_finds_another_operator_under_the_same_name(tiny: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        node(model, "gelu").op_type = "Relu"

    (item,) = difference(tiny, change).nodes
    assert (item.kind, item.operator, item.details) == ("changed", "Relu", ("operator Gelu → Relu",))


def test_finds_operators_that_moved(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu" if i % 2 else "Neg", ["x"], [f"y{i}"], f"n{i}") for i in range(6)]
    path = plain(tmp_path / "old.onnx", [*nodes, helper.make_node("Sum", [f"y{i}" for i in range(6)], ["y"], "sum")])

    def change(model: onnx.ModelProto) -> None:
        first = onnx.NodeProto.FromString(model.graph.node[0].SerializeToString())
        del model.graph.node[0]
        model.graph.node.insert(4, first)

    (item,) = difference(path, change).nodes
    assert (item.kind, item.node, item.details) == ("moved", "n0", ("place 0 → 4",))


def test_the_fewest_nodes_moved() -> None:
    assert moved({0: 0, 1: 1, 2: 2}) == set()
    assert moved({0: 2, 1: 0, 2: 1}) == {0}
    assert moved({}) == set()
    assert len(moved({i: 9 - i for i in range(10)})) == 9


def test_matches_what_comes_after_a_change_by_what_is_done_to_it() -> None:
    """Nothing has a name, the first operator differs, and so everything after it computes something else."""
    old = [helper.make_node("Exp", ["x"], ["a0"])] + [
        helper.make_node("Neg", [f"a{i}"], [f"a{i + 1}"]) for i in range(5)
    ]
    new = [helper.make_node("Log", ["x"], ["b0"])] + [
        helper.make_node("Neg", [f"b{i}"], [f"b{i + 1}"]) for i in range(5)
    ]
    found = match(Graph(old, ["x"], ["a5"]), Graph(new, ["x"], ["b5"]))
    assert found.nodes == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}
    assert found.tensors["a3"] == "b3"


@pytest.mark.parametrize(
    ("name", "change", "note"),
    [
        ("up", lambda w: w * 2, "scaled by 2.0"),
        ("up", lambda w: -w, "negated"),
        ("down", lambda w: w * 0.3, "scaled by 0.3"),
        ("up", lambda w: w[:, [0, 5, 2, 3, 4, 1, *range(6, 32)]], "slices 1 and 5 of axis 1 swapped"),
        ("embedding", lambda w: w[::-1], "22 of 23 slices of axis 0 permuted"),
        ("scale", lambda w: w + 0.5, "scaled by 1.5"),
        ("up", lambda w: w + np.float32(1e-3), ""),
        ("up", lambda w: np.zeros_like(w), ""),
    ],
)
def test_recognises_changes_of_weights(tiny: Path, name: str, change: Callable[..., Any], note: str) -> None:
    old = numpy_helper.to_array(weight(onnx.load(str(tiny)), name)).astype(np.float64)
    found = difference(tiny, lambda model: set_weight(model, name, change))
    (item,) = found.weights
    gap = np.asarray(change(old.astype(np.float32)), np.float64) - old
    assert (item.kind, item.name, item.note) == ("changed", name, note)
    assert item.max_abs == pytest.approx(np.abs(gap).max())
    assert item.relative_l2 == pytest.approx(np.linalg.norm(gap) / np.linalg.norm(old))
    assert not found.nodes and found.equal_weights == 4 and "1 weight changed" in found.summary


def test_recognises_transposed_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal((4, 6)), "b": rng.standard_normal((5, 5)), "c": rng.standard_normal((2, 3, 4))}

    def write(name: str, weights: dict[str, Any]) -> Path:
        nodes = [helper.make_node("Identity", [key], [f"y{key}"], key) for key in weights]
        nodes.append(helper.make_node("Relu", ["x"], ["y"], "relu"))
        return plain(tmp_path / name, nodes, weights)

    old = write("old.onnx", arrays)
    new = write("new.onnx", {"a": arrays["a"].T, "b": arrays["b"].T, "c": arrays["c"].transpose(0, 2, 1)})
    notes = {item.name: item.note for item in diff_structure(old, new).weights}
    assert notes == {"a": "transposed", "b": "transposed", "c": "transposed: axes 0, 2, 1"}
    item = next(item for item in diff_structure(old, new).weights if item.name == "a")
    assert (item.old_shape, item.new_shape, item.relative_l2) == ((4, 6), (6, 4), None)


def test_recognises_swapped_experts(tmp_path: Path) -> None:
    path = write_routed(tmp_path / "old.onnx")
    found = difference(path, lambda model: set_weight(model, "v", lambda w: w[:, [0, 3, 2, 1]]))
    assert [(item.name, item.note) for item in found.weights] == [("v", "experts 1 and 3 swapped")]


def test_recognises_other_types(tmp_path: Path, tiny: Path) -> None:
    half = write_tiny(tiny_model(), tmp_path / "half.onnx", "fp16", version="1", task="language_model")
    found = diff_structure(tiny, half)
    assert {(item.note, item.old_type, item.new_type) for item in found.weights} >= {
        ("rounded to float16", "float32", "float16")
    }
    wrong = changed(half, lambda model: set_weight(model, "up", lambda w: w * np.float16(1.01)))
    (item,) = [item for item in diff_structure(tiny, wrong).weights if item.name == "up"]
    assert item.note == "" and item.relative_l2 == pytest.approx(0.01, rel=0.1)


def test_finds_weights_that_came_and_went(tiny: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        weight(model, "up").name = "up2"
        node(model, "up").input[1] = "up2"
        model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "spare"))

    found = difference(tiny, change)
    kinds = {(item.kind, item.old_name, item.name) for item in found.weights}
    assert kinds == {("renamed", "up", "up2"), ("added", None, "spare")} and not found.nodes


def test_finds_inputs_outputs_and_metadata(tiny: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 8
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8
        model.opset_import[0].version = 22
        model.metadata_props[0].value = "2"
        model.metadata_props.add(key="author", value="me")
        model.ir_version = 11

    found = difference(tiny, change)
    assert {(item.what, item.name, item.old, item.new) for item in found.properties} == {
        ("input", "tokens", "int64 [batch, length]", "int64 [batch, 8]"),
        ("output", "logits", "float32 [batch, length, 23]", "float32 [batch, 8, 23]"),
        ("opset", "ai.onnx", "21", "22"),
        ("metadata", "hsm_export.version", "1", "2"),
        ("metadata", "author", None, "me"),
        ("file", "IR version", "10", "11"),
    }
    assert not found.only_names and not found.identical


def test_finds_a_changed_function(tmp_path: Path) -> None:
    path = write_routed(tmp_path / "old.onnx")

    def change(model: onnx.ModelProto) -> None:
        body = next(item for item in model.functions if item.name == "ExpertMatMul")
        next(item for item in body.node if item.op_type == "Sigmoid").op_type = "Tanh"

    (item,) = difference(path, change).functions
    assert (item.kind, item.name) == ("changed", "hsm::ExpertMatMul")
    (node_change,) = item.nodes
    assert (node_change.kind, node_change.details) == ("changed", ("operator Sigmoid → Tanh",))


def test_compares_branches_whatever_their_names(tmp_path: Path) -> None:
    def write(name: str, prefix: str, operator: str) -> Path:
        value = helper.make_tensor_value_info(f"{prefix}out", TensorProto.FLOAT, [3])
        branches = {
            key: helper.make_graph(
                [helper.make_node(op, ["x"], [f"{prefix}out"], prefix)], f"{prefix}{key}", [], [value]
            )
            for key, op in (("then_branch", "Relu"), ("else_branch", operator))
        }
        condition = helper.make_node(
            "Constant", [], ["c"], "c", value=helper.make_tensor("", TensorProto.BOOL, [], [1])
        )
        return plain(tmp_path / name, [condition, helper.make_node("If", ["c"], ["y"], "if", **branches)])

    old = write("old.onnx", "a", "Neg")
    assert diff_structure(old, write("new.onnx", "b", "Neg")).identical
    (item,) = diff_structure(old, write("new.onnx", "b", "Abs")).nodes
    assert item.details == ("attribute else_branch: a graph of 1 operators → a graph of 1 operators",)


def test_reads_external_weights_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsm_export.diffing.files.weight_streams._PIECE", 100)
    rng = np.random.default_rng(0)
    table = rng.standard_normal((64, 48)).astype(np.float32)
    paths = []
    for name, array in (("old", table), ("same", table), ("swapped", table[:, ::-1]), ("scaled", table * 4)):
        (tmp_path / name).mkdir()
        weights = {"first": np.arange(5000.0), "w": np.ascontiguousarray(array), "last": np.ones(3)}
        model = onnx.load(str(plain(tmp_path / name / "m.onnx", matmul(), weights)))
        paths.append(tmp_path / name / "m.onnx")
        onnx.save(model, str(paths[-1]), save_as_external_data=True, location="w.bin", size_threshold=0)
    found = [diff_structure(paths[0], path) for path in paths[1:]]
    assert found[0].identical and found[0].old_bytes > table.nbytes
    assert found[1].weights[0].note == "48 of 48 slices of axis 1 permuted"
    assert (found[2].weights[0].note, found[2].weights[0].max_abs) == ("scaled by 4.0", 3 * np.abs(table).max())
    (paths[0].parent / "w.bin").write_bytes(b"short")
    with pytest.raises(BadInputError, match="truncated"):
        diff_structure(paths[0], paths[1])


def test_compares_integers_booleans_and_infinities(tmp_path: Path) -> None:
    old = {"i": np.array([2**53, 1]), "b": np.array([True, False]), "f": np.array([np.inf, np.nan, 1.0])}
    new = {"i": np.array([2**53 + 1, 1]), "b": np.array([True, True]), "f": np.array([np.inf, np.nan, np.inf])}
    nodes = [helper.make_node("Identity", [key], [f"y{key}"], key) for key in old]
    nodes.append(helper.make_node("Relu", ["x"], ["y"], "relu"))
    paths = [plain(tmp_path / name, nodes, arrays) for name, arrays in (("a.onnx", old), ("b.onnx", new))]
    assert diff_structure(paths[0], paths[0]).identical
    found = {item.name: item for item in diff_structure(*paths).weights}
    assert set(found) == {"i", "b", "f"} and found["f"].max_abs == np.inf


def test_prints_json_tables_and_markdown(tiny: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        node(model, "gelu").op_type = "Relu"
        node(model, "gelu").name = "a|b[bold]\x1b[31m"
        set_weight(model, "up", lambda w: w * 2)
        model.metadata_props[0].value = "2"

    found = difference(tiny, change)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["weights"][0]["note"] == "scaled by 2.0" and data["schema"] == 1
    console = Console(width=200, record=True)
    console.print(render_structure(found))
    text = console.export_text()
    assert "scaled by 2.0" in text and "a|b[bold]" in text and found.summary in " ".join(text.split())
    markdown = structure_markdown(found)
    assert "## weights" in markdown and "a\\|b[bold]" in markdown
    assert "\x1b" not in text + markdown and "\\x1b" in text


@st.composite
def graphs(draw: st.DrawFn) -> list[onnx.NodeProto]:
    """Random operators without names; every result is used, or is an output."""
    nodes = []
    for index in range(draw(st.integers(1, 12))):
        inputs = [f"t{draw(st.integers(-1, index - 1))}" for _ in range(draw(st.integers(1, 2)))]
        operator = "Add" if len(inputs) == 2 else draw(st.sampled_from(["Neg", "Exp"]))
        nodes.append(helper.make_node(operator, inputs, [f"t{index}"]))
    return nodes


@settings(max_examples=50, deadline=None, derandomize=True)
@given(graphs(), st.randoms(use_true_random=False))
def test_the_same_operators_in_another_order_are_moved_at_most(nodes: list[onnx.NodeProto], rng: random.Random) -> None:
    """Renamed and put into another order in which they can run, operators are still the same ones."""
    used = {name for node in nodes for name in node.input}
    outputs = [f"t{index}" for index in range(len(nodes)) if f"t{index}" not in used]
    left, order, known = list(range(len(nodes))), [], {"t-1"}
    while left:
        index = rng.choice([i for i in left if known.issuperset(nodes[i].input)])
        left.remove(index)
        order.append(index)
        known.add(f"t{index}")
    names = {f"t{index}": f"s{place}" for place, index in enumerate(order)} | {"t-1": "x"}
    others = [
        helper.make_node(nodes[i].op_type, [names[name] for name in nodes[i].input], [names[f"t{i}"]]) for i in order
    ]
    old, new = Graph(nodes, ["t-1"], outputs), Graph(others, ["x"], [names[name] for name in outputs])
    assert {change.kind for change in node_changes(old, new, match(old, new))} <= {"moved"}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(graphs(), st.data())
def test_every_change_of_an_operator_is_found(nodes: list[onnx.NodeProto], data: st.DataObject) -> None:
    used = {name for node in nodes for name in node.input}
    outputs = [f"t{index}" for index in range(len(nodes)) if f"t{index}" not in used]
    others = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    index = data.draw(st.integers(0, len(nodes) - 1))
    others[index].op_type = "Mul" if others[index].op_type == "Add" else "Log"
    old, new = Graph(nodes, ["t-1"], outputs), Graph(others, ["t-1"], outputs)
    (change,) = node_changes(old, new, match(old, new))
    assert change.details == (f"operator {nodes[index].op_type} → {others[index].op_type}",)


def test_a_large_graph_takes_no_time(tmp_path: Path) -> None:
    """Thousands of equal operators in a row, all renamed, one of them gone."""
    count = 3000
    old = [helper.make_node("Neg", [f"a{i}" if i else "x"], [f"a{i + 1}"], f"n{i}") for i in range(count)]
    new = [helper.make_node("Neg", [f"b{i}" if i else "x"], [f"b{i + 1}"], f"m{i}") for i in range(count - 1)]
    found = match(Graph(old, ["x"], [f"a{count}"]), Graph(new, ["x"], [f"b{count - 1}"]))
    assert len(found.nodes) == count - 1


def test_refuses_what_is_no_model(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x09garbage")
    with pytest.raises(BadInputError, match="not a whole ONNX file"):
        diff_structure(tiny, tmp_path / "bad.onnx")
    with pytest.raises(BadInputError, match="does not exist"):
        diff_structure(tmp_path / "missing.onnx", tiny)
    (tmp_path / "bytes.onnx").write_bytes(tiny.read_bytes().replace(b"gelu", b"ge\xff\xfe"))
    with pytest.raises(BadInputError, match="is not UTF-8 text"):
        diff_structure(tiny, tmp_path / "bytes.onnx")


def matmul() -> list[onnx.NodeProto]:
    return [helper.make_node("MatMul", ["x", "w"], ["z"], "mul"), helper.make_node("Identity", ["x"], ["y"], "same")]


def plain(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, Any] | None = None) -> Path:
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path))
    return path
