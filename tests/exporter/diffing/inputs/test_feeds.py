"""Inputs of a diff: the user's arrays and text, and chosen ones for files of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.exporter.validation.tiny import VOCABULARY, tiny_model, write_tiny

from hsm_export.diffing.inputs.decoding import decoding_cases
from hsm_export.diffing.inputs.feeds import Feeds, longest_sequence, open_feeds, prompt_of
from hsm_export.errors import BadInputError, UsageError
from hsm_export.onnx_model.model_file import ModelFile, open_model
from hsm_export.runtimes import get
from hsm_export.runtimes.runtime import RunContext
from hsm_export.validation.tried_cases import index_bounds

Call = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def caller(file: ModelFile) -> Call:
    """Return a call of the file in ONNX Runtime."""
    runner = get("ort").runner(RunContext(file.model, file.path.parent, file.precision))

    def call(feed: Mapping[str, Any]) -> Mapping[str, Any]:
        with runner:
            return {name: np.array(array) for name, array in runner.infer(dict(feed), check_inputs=False).items()}

    return call


def feeds_of(path: Path, *args: Any, **options: Any) -> tuple[ModelFile, Feeds]:
    file = open_model(path)
    return file, open_feeds(file, *args, call=caller(file), **options)


def write(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Mapping[str, Any] = {}) -> Path:
    """Write an ONNX file; inputs and outputs are (name, type, shape)."""
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path))
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A language model without any metadata: 23 token ids."""
    return write_tiny(tiny_model(), tmp_path / "tiny.onnx")


@pytest.fixture
def bytes_model(tmp_path: Path) -> Path:
    """A file that looks up bytes in a table: (B,T) -> (B,T,256)."""
    table = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    gather = helper.make_node("Gather", ["table", "ids"], ["scores"], "gather")
    return write(
        tmp_path / "bytes.onnx",
        [gather],
        [("ids", TensorProto.INT64, ["b", "t"])],
        [("scores", TensorProto.FLOAT, ["b", "t", 256])],
        {"table": table},
    )


def test_takes_arrays_and_labels(tmp_path: Path, tiny: Path) -> None:
    tokens = np.arange(6).reshape(2, 3)
    np.savez(tmp_path / "data.npz", tokens=tokens, labels=np.array([4, 5]))
    _, feeds = feeds_of(tiny, tmp_path / "data.npz")
    (item,) = feeds.cases
    assert item.name == "data.npz" and item.text
    assert (item.feed["tokens"] == tokens).all() and item.labels is not None and item.labels.tolist() == [4, 5]
    np.savez(tmp_path / "plain.npz", tokens=tokens)
    assert feeds_of(tiny, tmp_path / "plain.npz")[1].cases[0].labels is None


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"tokens": np.zeros((2, 3)), "labels": np.zeros(2, int)}, "must hold integers"),
        ({"tokens": np.full((2, 3), VOCABULARY)}, "data.npz: tokens must lie in -23…22"),
        ({"token": np.zeros((2, 3), int)}, "data.npz holds the arrays token; the model's inputs are tokens"),
        (
            {"tokens": np.zeros((2, 3), int), "labels": np.zeros(3, int)},
            "data.npz: labels must be one integer for each",
        ),
        ({"tokens": np.zeros((2, 3), int), "labels": np.zeros(2)}, "labels must be one integer for each of the 2"),
        ({"tokens": np.zeros((2, 3, 1), int)}, "must have shape"),
    ],
)
def test_refuses_other_arrays(tmp_path: Path, tiny: Path, arrays: dict[str, Any], complaint: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(BadInputError, match=complaint):
        feeds_of(tiny, tmp_path / "data.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not an archive", b"text"])
def test_refuses_damaged_archives(tmp_path: Path, tiny: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(BadInputError, match=r"is not a readable \.npz file"):
        feeds_of(tiny, tmp_path / "data.npz")
    with pytest.raises(BadInputError, match="does not exist"):
        feeds_of(tiny, tmp_path / "missing.npz")
    with pytest.raises(UsageError, match="contradict"):
        feeds_of(tiny, tmp_path / "data.npz", shapes=[(1, 2)])


def test_takes_booleans_doubles_and_any_integers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["count"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Where", ["mask", "x", "d"], ["y"]),
    ]
    inputs = [(n, t, ["n"]) for n, t in (("mask", 9), ("x", TensorProto.DOUBLE), ("count", TensorProto.INT32))]
    path = write(tmp_path / "m.onnx", nodes, inputs, [("y", TensorProto.DOUBLE, ["n"])])
    arrays = {"mask": np.array([True, False]), "x": np.array([1 / 3, 2.0]), "count": np.array([-7, 900])}
    np.savez(tmp_path / "data.npz", **arrays)
    _, feeds = feeds_of(path, tmp_path / "data.npz")
    feed = feeds.cases[0].feed
    assert feed["mask"].dtype == np.bool_ and feed["x"][0] == 1 / 3 and feed["count"].tolist() == [-7, 900]
    file, chosen = feeds_of(path)
    assert {item.feed["mask"].dtype for item in chosen.cases} == {np.dtype(bool)}
    assert all(caller(file)(case.feed)["y"].shape for case in chosen.cases)


def test_rounds_to_the_types_of_the_inputs(tmp_path: Path) -> None:
    path = write(
        tmp_path / "half.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [("x", TensorProto.FLOAT16, [2])],
        [("y", TensorProto.FLOAT16, [2])],
    )
    _, feeds = feeds_of(path, {"x": np.array([1.0 + 2.0**-12, 0.1], np.float32)})
    assert feeds.cases[0].feed["x"].tolist() == [1.0, float(np.float16(0.1))]


def test_cuts_text_into_windows(tmp_path: Path, bytes_model: Path) -> None:
    (tmp_path / "text.txt").write_bytes(bytes(range(65, 91)) * 40)
    file, feeds = feeds_of(bytes_model, tmp_path / "text.txt")
    assert all(item.text for item in feeds.cases) and len(feeds.cases) == 2
    assert [case.feed["ids"].shape for case in feeds.cases] == [(4, 128), (4, 128)]
    assert feeds.cases[1].feed["ids"].ravel()[:3].tolist() == [65 + (512 + i) % 26 for i in range(3)]
    assert "the first 1,024 tokens" in feeds.notes[0]
    assert prompt_of(feeds, file, 5).tolist() == [65, 66, 67, 68, 69]


def test_reads_text_that_is_shorter_than_a_window_or_no_utf8(tmp_path: Path, bytes_model: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"ab\xff")
    _, feeds = feeds_of(bytes_model, tmp_path / "text.txt")
    assert feeds.cases[0].feed["ids"].tolist() == [[97, 98, 255]]
    (tmp_path / "text.txt").write_bytes(b"a")
    with pytest.raises(BadInputError, match="at least two"):
        feeds_of(bytes_model, tmp_path / "text.txt")


def test_refuses_text_for_other_vocabularies_and_models(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "text.txt").write_text("a text")
    with pytest.raises(UsageError, match="has 23 token ids, not the 256 bytes"):
        feeds_of(tiny, tmp_path / "text.txt")
    floats = write(
        tmp_path / "f.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["n"])],
        [("y", TensorProto.FLOAT, ["n"])],
    )
    with pytest.raises(UsageError, match="only language models read text"):
        feeds_of(floats, tmp_path / "text.txt")


@pytest.mark.parametrize("shape", [[1, 8], [2, 8]])
def test_fills_fixed_shapes_with_text(tmp_path: Path, shape: list[int]) -> None:
    table = np.zeros((256, 256), np.float32)
    path = write(
        tmp_path / "fixed.onnx",
        [helper.make_node("Gather", ["table", "ids"], ["scores"])],
        [("ids", TensorProto.INT64, shape)],
        [("scores", TensorProto.FLOAT, [*shape, 256])],
        {"table": table},
    )
    (tmp_path / "text.txt").write_text("x" * 30)
    file, feeds = feeds_of(path, tmp_path / "text.txt")
    assert {case.feed["ids"].shape for case in feeds.cases} == {tuple(shape)} and longest_sequence(file) == 8
    (tmp_path / "text.txt").write_text("short")
    with pytest.raises(BadInputError, match="reads 8 at once"):
        feeds_of(path, tmp_path / "text.txt")


PLAIN = {
    "axis 1 of a table": (
        [helper.make_node("Gather", ["table", "i"], ["y"], axis=1)],
        [("i", TensorProto.INT32, ["n"])],
        {"table": np.zeros((2, 9), np.float32)},
        {"i": 8},
    ),
    "two tables": (
        [
            helper.make_node("Cast", ["i"], ["j"], to=TensorProto.INT64),
            helper.make_node("Gather", ["a", "j"], ["u"]),
            helper.make_node("Gather", ["b", "i"], ["v"]),
            helper.make_node("Add", ["u", "v"], ["y"]),
        ],
        [("i", TensorProto.INT32, ["n"])],
        {"a": np.zeros((5, 2), np.float32), "b": np.zeros((4, 2), np.float32)},
        {"i": 3},
    ),
    "an activation": (
        [helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)],
        [("x", TensorProto.FLOAT, ["n", 3]), ("i", TensorProto.INT64, ["n", 3])],
        {},
        {"i": 2},
    ),
    "a shape": (
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        [("x", TensorProto.FLOAT, [1]), ("s", TensorProto.INT64, [2])],
        {},
        {},
    ),
    "bytes": (
        [helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)],
        [("i", TensorProto.UINT8, ["n", 3, "h"])],
        {},
        {},
    ),
    "a matching dimension": (
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", "k"])],
        {"w": np.zeros((64, 2), np.float32)},
        {},
    ),
    "no inputs": ([helper.make_node("Relu", ["w"], ["y"])], [], {"w": np.zeros(2, np.float32)}, {}),
    "a scalar": ([helper.make_node("Relu", ["x"], ["y"])], [("x", TensorProto.FLOAT, [])], {}, {}),
}


RANKS = {"bytes": 3, "no inputs": 1, "a scalar": 0}


@pytest.mark.parametrize("name", PLAIN)
def test_finds_inputs_that_run(tmp_path: Path, name: str) -> None:
    nodes, inputs, weights, bounds = PLAIN[name]
    path = write(
        tmp_path / "plain.onnx", nodes, inputs, [("y", TensorProto.FLOAT, [None] * RANKS.get(name, 2))], weights
    )
    file, feeds = feeds_of(path)
    assert index_bounds(file) == bounds
    for case in feeds.cases:
        assert caller(file)(case.feed)["y"].dtype == np.float32
    assert feeds.cases and "random ones" in feeds.notes[0]


def test_uses_the_whole_table_and_bytes(tmp_path: Path, tiny: Path) -> None:
    file, feeds = feeds_of(tiny)
    assert max(int(case.feed["tokens"].max()) for case in feeds.cases) > VOCABULARY // 2
    assert [case.feed["tokens"].shape for case in feeds.cases] == [(2, 17), (1, 1), (3, 5)]
    assert len({case.feed["tokens"].tobytes() for case in feeds.cases}) == 3
    spec = file.tokens
    assert spec is not None and spec.name == "tokens"
    assert [case.name for case in feeds_of(tiny, shapes=[(2, 4)])[1].cases] == ["random 2×4"]
    with pytest.raises(UsageError, match="at least 1"):
        feeds_of(tiny, shapes=[(0, 4)])


def test_says_when_nothing_runs(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = write(
        tmp_path / "odd.onnx",
        nodes,
        [("x", TensorProto.FLOAT, ["n", "k"])],
        [("y", TensorProto.FLOAT, [None, 2])],
        {"w": np.zeros((123, 2), np.float32)},
    )
    with pytest.raises(BadInputError, match="none of the random inputs") as caught:
        feeds_of(path)
    assert caught.value.hint and "--inputs" in caught.value.hint


def test_adds_the_held_out_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    config = {"task": "sequence_classifier", "input": "pixels", "classes": 10, "max_length": 64}
    path = write(
        tmp_path / "digits.onnx",
        [
            helper.make_node("Gather", ["w", "pixels"], ["e"]),
            helper.make_node("ReduceMean", ["e", "a"], ["logits"], keepdims=0),
        ],
        [("pixels", TensorProto.INT64, ["batch", "length"])],
        [("logits", TensorProto.FLOAT, ["batch", 10])],
        {"w": np.zeros((17, 10), np.float32), "a": np.array([1])},
    )
    model = onnx.load(str(path))
    model.metadata_props.add(key="hsm_export.config", value=json.dumps(config))
    model.metadata_props.add(key="hsm_export.task", value="sequence_classifier")
    onnx.save(model, str(path))
    _, feeds = feeds_of(path)
    assert feeds.cases[-1].labels is not None and feeds.cases[-1].feed["pixels"].shape == (359, 64)
    assert feeds.cases[0].labels is None and "held-out digits" in feeds.notes[-1]


def test_calls_a_decoding_file_in_the_middle(decoding: Path) -> None:
    file = open_model(decoding)
    state = file.state()
    slots = state.most_slots
    call = caller(file)
    cases = decoding_cases(file, call)
    assert [case.name.split()[0] for case in cases] == ["first", "second", "one"]
    assert all(case.feed["tokens"].shape[1] > slots for case in cases[:2])
    assert not cases[0].feed["position"].any() and cases[1].feed["position"].all()
    assert (cases[1].feed["position"] == cases[0].feed["lengths"]).all() and 0 in cases[2].feed["lengths"]
    before = call(cases[0].feed)
    for tensor in state.tensors:
        assert (cases[1].feed[tensor.past] == before[tensor.present]).all() and before[tensor.present].any()
    assert np.isfinite(call(cases[2].feed)["logits"]).any()
    with pytest.raises(UsageError, match="at least 1"):
        decoding_cases(file, call, [(0, 3)])


def test_reads_text_with_a_state(tmp_path: Path, decoding: Path) -> None:
    (tmp_path / "text.txt").write_text("some text " * 30)
    _, feeds = feeds_of(decoding, tmp_path / "text.txt")
    assert feeds.cases[0].text and feeds.cases[0].feed["tokens"].shape == (2, 128)
    assert not feeds.cases[0].feed["position"].any()
