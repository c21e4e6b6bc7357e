"""The decoding step's file: its borders, its description, and what it refuses; the export checks its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from tests.exporter.decoding.harness import decode_file
from tests.exporter.exporting.harness import session
from tests.exporter.exporting.models import MIXERS, VOCAB, WIDTH, classifier, language_model

import hsm_export
from hsm_export.errors import UsageError
from hsm_export.formats.state_spec import StateSpec
from hsm_models import LayerConfig, ModelConfig, SoftmaxConfig, SwitchHeadConfig
from hsm_models.language_model import LanguageModel

PRECISIONS = ("fp32", "fp16", "bf16")
WINDOWS = {
    "softmax-window": (SoftmaxConfig(window=4),),
    "switch-head-xl-window": (SwitchHeadConfig(positions="xl", window=5),),
}
Feed = dict[str, NDArray[Any]]


def state_of(path: Path) -> StateSpec:
    """Read the description of a file's state."""
    metadata = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    assert metadata["hsm_export.decode"] == "1"
    return StateSpec.from_metadata(metadata, str(path))


def feed(state: StateSpec, tokens: list[list[int]], position: list[int], lengths: list[int], capacity: int = 8) -> Feed:
    """Make the inputs of a call on an empty state."""
    ids = {"tokens": tokens, "position": position, "lengths": lengths}
    own = None if state.capacity else capacity
    return {name: np.array(value, np.int64) for name, value in ids.items()} | state.allocate(len(tokens), own)


def shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_borders_and_description() -> None:
    path = decode_file("no-sums", rollback=3)
    model = onnx.load(path)
    inputs = {value.name: value for value in model.graph.input}
    outputs = {value.name: value for value in model.graph.output}
    own = {"0.ring": 5, "1.ring": 3, "3.key": 6, "3.value": 6}
    expected = {name: ["batch", slots + 3] for name, slots in own.items()}
    expected |= {f"{layer}.{key}": ["batch", "capacity"] for layer in (2, 4) for key in ("key", "value")}
    expected["4.relative"] = ["batch", "capacity"]
    tail = {name: [WIDTH] if name.endswith("ring") else ([4, 8] if name[0] in "23" else [2, 16]) for name in expected}

    names = sorted(expected, key=lambda name: (name.endswith("relative"), name))
    assert list(inputs) == ["tokens", "position", "lengths", *(f"past.{name}" for name in names)]
    assert list(outputs) == ["logits", *(f"present.{name}" for name in names)]
    assert [shape(inputs[name]) for name in ("tokens", "position", "lengths")] == [
        ["batch", "length"],
        ["batch"],
        ["batch"],
    ]
    assert shape(outputs["logits"]) == ["batch", "length", VOCAB]
    for name, sizes in expected.items():
        assert shape(inputs[f"past.{name}"]) == shape(outputs[f"present.{name}"]) == [*sizes, *tail[name]]

    state = state_of(path)
    assert (state.capacity, state.rollback, state.last_logits) == (None, 3, False)
    assert {tensor.name: list(tensor.shape) for tensor in state.tensors} == {
        name: [*sizes, *tail[name]] for name, sizes in expected.items()
    }
    slots, grows = (None, "slots", 3), (1, "position", 0)
    expected_properties = [*[slots] * 2, *[grows] * 2, *[slots] * 2, *[grows] * 3]
    assert [(t.capacity_axis, t.rollback, t.spare) for t in state.tensors] == expected_properties
    assert all(tensor.in_place for tensor in state.tensors)
    mixers = {node.name: node.op_type for node in model.graph.node if node.domain == "hsm"}
    assert mixers["layers.0.mixer"] == "TokenShiftCached"
    assert mixers["layers.1.mixer"] == "ShiftMixCached"
    assert {function.name for function in model.functions} == set(mixers.values())
    described = json.loads(next(e.value for e in model.metadata_props if e.key == "hsm_export.inputs"))
    assert [(item["name"], item["low"], item["high"]) for item in described[:3]] == [
        ("tokens", 0, VOCAB - 1),
        ("position", 0, None),
        ("lengths", 0, None),
    ]


def test_onnxs_own_evaluator_agrees() -> None:
    path = decode_file("no-sums", rollback=3)
    inputs = feed(state_of(path), [[1, 2, 3], [4, 5, 6], [7, 8, 9]], [2, 0, 5], [3, 0, 1])
    rng = np.random.default_rng(0)
    inputs |= {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in inputs.items() if name[:4] == "past"}
    running = session(path)
    names = [value.name for value in running.get_outputs()]
    mine = dict(zip(names, ReferenceEvaluator(str(path)).run(None, inputs), strict=True))
    theirs = dict(zip(names, running.run(None, inputs), strict=True))
    for name in names:
        rows = slice(None) if name != "logits" else [0]
        np.testing.assert_allclose(mine[name][rows], theirs[name][rows], rtol=1e-4, atol=1e-5)
    for name in names[1:]:  # a row of length 0 stands still, to the bit
        assert np.array_equal(theirs[name][1], inputs[name.replace("present", "past")][1])


@pytest.mark.parametrize("name", ["softmax", pytest.param("switch-head-one-expert", marks=pytest.mark.slow)])
def test_a_token_beyond_the_capacity_is_an_error(name: str) -> None:
    path = decode_file(name, capacity=8)
    running, state = session(path), state_of(path)
    assert state.capacity == 8
    full = feed(state, [[1, 2, 3]], [6], [2])
    running.run(None, full)  # padding may lie beyond
    running.run(None, feed(state, [[1, 2, 3]], [8], [0]))  # and a full row may stand still
    for position, lengths in ((6, 3), (8, 1), (2**40, 1)):
        with pytest.raises(Exception, match=r"(?i)ind(ex|ice)"):
            running.run(None, feed(state, [[1, 2, 3]], [position], [lengths]))


def test_a_token_beyond_the_learned_positions_is_an_error(tmp_path: Path) -> None:
    config = ModelConfig(
        task="language_model",
        width=WIDTH,
        vocab_size=VOCAB,
        positions="learned",
        max_length=12,
        layers=(LayerConfig(MIXERS["hsm-vector"][0]),),
    )
    result = hsm_export.export(LanguageModel(config), output=tmp_path / "m.onnx", decode=True)
    assert result.state is not None
    assert result.state.longest() == 12
    running = session(result.path)
    running.run(None, feed(result.state, [[1, 2, 3]], [10], [2]))
    with pytest.raises(Exception, match=r"(?i)ind(ex|ice)"):
        running.run(None, feed(result.state, [[1, 2, 3]], [10], [3]))


def test_last_logits_are_those_of_the_last_valid_token() -> None:
    every, last = decode_file("hsm-vector"), decode_file("hsm-vector", last_logits=True)
    assert state_of(last).last_logits
    inputs = feed(state_of(every), [[1, 2, 3], [4, 5, 6]], [0, 0], [3, 1])
    all_logits, last_logits = (session(path).run(["logits"], inputs)[0] for path in (every, last))
    assert last_logits.shape == (2, 1, VOCAB)
    np.testing.assert_allclose(last_logits[:, 0], all_logits[[0, 1], [2, 0]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_states_have_the_files_precision_and_sums_float32(precision: str, dtype: str, tmp_path: Path) -> None:
    model = language_model(*MIXERS["hsm-vector"][:1], *MIXERS["taylor-shift"])
    result = hsm_export.export(model, output=tmp_path / "m.onnx", precision=precision, decode=True)
    assert result.state is not None
    assert {t.name: t.dtype for t in result.state.tensors} == {
        "0.ring": dtype,
        "1.state": "float32",
        "1.norm": "float32",
    }
    file = onnx.load(result.path)
    found = {
        value.name: str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        for value in (*file.graph.input, *file.graph.output)
    }
    for tensor in result.state.tensors:
        assert found[tensor.past] == found[tensor.present] == tensor.dtype
    assert found["logits"] == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [*MIXERS, *WINDOWS])
def test_every_mixer(name: str, precision: str, tmp_path: Path) -> None:
    model = language_model(*{**MIXERS, **WINDOWS}[name])
    for capacity in (None, 16):
        hsm_export.export(
            model, output=tmp_path / "m.onnx", precision=precision, decode=True, capacity=capacity, rollback=2
        )


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (lambda: classifier("tokens"), {"decode": True}, "does not decode: TaylorShift is not causal"),
        (lambda: torch.nn.Linear(3, 3), {"decode": True, "example_inputs": (torch.zeros(2, 3),)}, "leave examples"),
        (lambda: language_model(SoftmaxConfig()), {"decode": True, "capacity": 0}, "at least 1 token"),
        (lambda: language_model(SoftmaxConfig()), {"decode": True, "rollback": -1}, "0 or more"),
        (lambda: language_model(SoftmaxConfig()), {"capacity": 8}, "are for decoding"),
        (lambda: language_model(SoftmaxConfig()), {"decode": True, "output_names": ["y"]}, "leave examples and names"),
    ],
)
def test_misuse_is_refused(source: Any, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        hsm_export.export(source(), output=tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())
