"""States: sizes to the byte, JSON, and what may be done to a row."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from safetensors import safe_open
from safetensors.numpy import save_file
from tests.exporter.exporting.models import WIDTH, language_model

from hsm_export.errors import BadInputError, UsageError
from hsm_export.formats.state_spec import StateSpec, TensorSpec
from hsm_models import HSMConfig, SoftmaxConfig, SwitchHeadConfig, TaylorShiftConfig

RINGS = (HSMConfig(shifts=(1, 4)), HSMConfig(shifts=(9,)), SoftmaxConfig(window=6))
CACHES = (SwitchHeadConfig(heads=2, head_dim=6), SoftmaxConfig(heads=4))
SUMS = (TaylorShiftConfig(heads=4, causal=True),)


def spec(*mixers: Any, precision: str = "fp32", **options: Any) -> StateSpec:
    return StateSpec.of(language_model(*mixers), precision, **options)


def filled(state: StateSpec, rng: np.random.Generator, batch: int = 3, capacity: int | None = None) -> dict[str, Any]:
    arrays = state.allocate(batch, capacity)
    return {name: rng.standard_normal(array.shape).astype(array.dtype) for name, array in arrays.items()}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("fp16", 2), ("bf16", 2), ("fp64", 8)])
def test_bytes_per_sequence(precision: str, size: int) -> None:
    rings = (4 + 2) * WIDTH + (9 + 2) * WIDTH + 2 * (6 + 2) * WIDTH
    d = WIDTH // 4
    features = 1 + d + d * (d + 1) // 2
    sums = 4 * features * (d + 1) * max(size, 4)
    per_token = (2 * 2 * 6 + 2 * WIDTH) * size
    state = spec(*RINGS, *CACHES, *SUMS, precision=precision, rollback=2)
    for length in (0, 1, 1000):
        assert state.bytes_per_sequence(length) == rings * size + sums + per_token * length
    allocated = state.allocate(3, capacity=5)
    assert sum(array.nbytes for array in allocated.values()) == 3 * state.bytes_per_sequence(5)


@pytest.mark.parametrize("options", [{}, {"capacity": 12, "rollback": 4, "last_logits": True}])
def test_json_round_trip(options: dict[str, Any]) -> None:
    state = spec(*RINGS, *CACHES, *SUMS, precision="bf16", **options)
    assert StateSpec.from_json(state.to_json()) == state
    data = json.loads(state.to_json())
    assert data["schema"] == 2
    cache = next(item for item in data["tensors"] if item["name"] == "3.key")
    assert cache["past"] == "past.3.key"
    assert cache["present"] == "present.3.key"
    assert cache["shape"] == ["batch", options.get("capacity", "capacity"), 2, 6]
    assert (cache["bytes"], cache["bytes_per_token"]) == (0, 24)
    assert (cache["capacity_axis"], cache["rollback"], cache["in_place"]) == (1, "position", False)


def as_first_schema(state: StateSpec) -> str:
    """Write a state as the first schema did: with a kind and a layer in place of the properties."""
    kinds = {"slots": "ring", "position": "cache", "snapshot": "taylor"}
    data = json.loads(state.to_json())
    for item in data["tensors"]:
        kind = kinds[item.pop("rollback")]
        del item["capacity_axis"], item["in_place"]
        item |= {"kind": kind, "layer": int(item["name"].partition(".")[0])}
    return json.dumps(data | {"schema": 1})


@pytest.mark.parametrize("options", [{}, {"capacity": 12, "rollback": 4, "last_logits": True}])
def test_the_first_schema_is_read(options: dict[str, Any], tmp_path: Path, rng: np.random.Generator) -> None:
    state = spec(*RINGS, *CACHES, *SUMS, precision="bf16", **options)
    old = StateSpec.from_json(as_first_schema(state))
    assert old == state
    with pytest.raises(BadInputError, match="not valid"):
        StateSpec.from_json(as_first_schema(state).replace('"cache"', '"stack"'))
    # What either of them saved, the other one loads.
    newer = structs.replace(state, tensors=tuple(structs.replace(tensor, in_place=True) for tensor in state.tensors))
    arrays = filled(old, rng, capacity=None if old.capacity else 5)
    old.save(tmp_path / "s.safetensors", arrays, [5, 0, 2])
    loaded, position = newer.load(tmp_path / "s.safetensors")
    assert position.tolist() == [5, 0, 2]
    assert all(loaded[name].tobytes() == array.tobytes() for name, array in arrays.items())


OTHERS = StateSpec(
    (
        TensorSpec("count", "int64", ("batch",)),
        TensorSpec("mix.last", "float32", ("batch", 6)),
        TensorSpec("attention.key", "float32", ("batch", 2, "capacity", 3), capacity_axis=2, rollback="position"),
        TensorSpec("log", "int64", ("batch", "capacity"), capacity_axis=1, rollback="position"),
    )
)


def test_states_of_any_rank_and_axis(tmp_path: Path, rng: np.random.Generator) -> None:
    assert StateSpec.from_json(OTHERS.to_json()) == OTHERS
    assert OTHERS.bytes_per_sequence(10) == 8 + 6 * 4 + 10 * (2 * 3 * 4 + 8)
    arrays = {
        name: (9 * rng.standard_normal(array.shape)).astype(array.dtype)
        for name, array in OTHERS.allocate(3, capacity=4).items()
    }
    assert arrays["past.attention.key"].shape == (3, 2, 4, 3)
    assert (arrays["past.count"].shape, arrays["past.count"].dtype) == ((3,), np.int64)
    OTHERS.fork(arrays, 0, [1])
    OTHERS.reset(arrays, 2)
    assert all((array[1] == array[0]).all() and not array[2].any() for array in arrays.values())
    OTHERS.save(tmp_path / "s.safetensors", arrays, [1, 1, 0])
    loaded, _ = OTHERS.load(tmp_path / "s.safetensors")
    assert all(loaded[name].tobytes() == array.tobytes() for name, array in arrays.items())
    with pytest.raises(UsageError, match="the state count holds no single tokens"):
        OTHERS.rolled_back([3], [1])


def broken(**changes: Any) -> str:
    data = json.loads(spec(*RINGS).to_json())
    for name, value in changes.items():
        if name in data:
            data[name] = value
        else:
            data["tensors"][0][name.removeprefix("tensor_")] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid"),
        ("[]", "not valid"),
        ("{}", "not valid"),
        ("[" * 100_000, "not valid"),
        (broken(schema=3), "schema version 3"),
        (broken(schema=1), "not valid"),
        (broken(tensors=None), "not valid"),
        (broken(capacity=0), "not valid"),
        (broken(rollback=-1), "not valid"),
        (broken(shape=["batch", "length", 3]), "not valid"),
        (broken(shape=["batch", 2**40, 3]), "not valid"),
        (broken(shape=[2, 3, 4]), "not valid"),
        (broken(shape=["batch"]), "not valid"),
        (broken(shape=[]), "not valid"),
        (broken(shape=["batch", "batch", 3]), "not valid"),
        (broken(tensor_rollback="stack"), "not valid"),
        (broken(tensor_rollback=["slots"]), "not valid"),
        (broken(capacity_axis=0), "not valid"),
        (broken(capacity_axis=3), "not valid"),
        (broken(capacity_axis="1"), "not valid"),
        (broken(in_place=1), "not valid"),
        (broken(dtype="int8"), "not valid"),
        (broken(dtype=["float32"]), "not valid"),
        (broken(spare=True), "not valid"),
    ],
)
def test_damaged_descriptions_are_refused(text: str, words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        StateSpec.from_json(text)


def test_a_file_without_a_state_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"m\.onnx has no state"):
        StateSpec.from_metadata({}, "m.onnx")


def test_allocation() -> None:
    state = spec(*CACHES)
    assert state.needs_capacity
    assert state.allocate(2, 7)["past.0.key"].shape == (2, 7, 2, 6)
    for arguments, words in (((0, 7), "at least one row"), ((2,), "not fixed"), ((2, 0), "not fixed")):
        with pytest.raises(UsageError, match=words):
            state.allocate(*arguments)
    fixed = spec(*CACHES, capacity=7)
    assert fixed.allocate(2)["past.0.key"].shape == (2, 7, 2, 6)
    with pytest.raises(UsageError, match="hold 7 tokens, not 8"):
        fixed.allocate(2, 8)
    assert spec(*RINGS, capacity=7).capacity is None  # nothing there that it could limit
    assert spec(*RINGS).longest() is None
    assert (state.longest(9), fixed.longest()) == (9, 7)


def test_rows_are_reset_forked_and_restored(rng: np.random.Generator) -> None:
    state = spec(*RINGS, *CACHES, *SUMS, precision="bf16")
    arrays = filled(state, rng, batch=4, capacity=5)
    before = {name: array.copy() for name, array in arrays.items()}
    kept = state.snapshot(arrays, [1, 2])
    state.fork(arrays, 0, [2, 3])
    state.reset(arrays, 1)
    for name, array in arrays.items():
        assert (array[[0, 2, 3]] == before[name][0]).all()
        assert (array[1] == 0).all()
    state.restore(arrays, [1, 2], kept)
    for name, array in arrays.items():
        assert (array[[1, 2]] == before[name][[1, 2]]).all()


def test_rollback_moves_positions_as_far_as_the_rings_reach() -> None:
    state = spec(*RINGS, *CACHES, rollback=3)
    assert state.rolled_back([9, 5, 2], [3, 0, 2]).tolist() == [6, 5, 0]
    assert state.rolled_back([9, 5], 1).tolist() == [8, 4]
    # A ring holds what came before the furthest position: going back twice counts together.
    assert state.rolled_back([7], [1], furthest=[9]).tolist() == [6]
    for arguments, words in (
        (([9], [4]), "to take 3 tokens back, 1 too few"),
        (([7], [2], [9]), "1 too few"),
        (([2], [3]), "cannot take"),
        (([2], [-1]), "cannot take"),
    ):
        with pytest.raises(UsageError, match=words):
            state.rolled_back(*arguments)
    assert spec(*CACHES).rolled_back([900], [899]).tolist() == [1]  # caches keep everything


def test_sums_cannot_be_taken_back() -> None:
    state = spec(*SUMS, rollback=3)
    assert state.rolled_back([9], [0]).tolist() == [9]
    with pytest.raises(UsageError, match="holds no single tokens") as caught:
        state.rolled_back([9], [1])
    assert "snapshot" in str(caught.value.hint)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_state_survives_the_disk(precision: str, tmp_path: Path, rng: np.random.Generator) -> None:
    state = spec(*RINGS, *CACHES, *SUMS, precision=precision)
    arrays = filled(state, rng, capacity=5)
    state.save(tmp_path / "s.safetensors", arrays, [5, 0, 2])
    loaded, position = state.load(tmp_path / "s.safetensors")
    assert position.tolist() == [5, 0, 2]
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("position", "words"),
    [
        ([6, 0, 2], r"have \[6, 0, 2\] tokens, but hold 0 to 5"),
        ([5, -1, 2], "hold 0 to 5"),
        ([5.0, 0.0, 2.0], "the positions of its rows are float64"),
        (5, "instead of"),
    ],
)
def test_positions_that_the_tensors_cannot_hold(
    position: Any, words: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    state = spec(*CACHES)
    path = tmp_path / "s.safetensors"
    state.save(path, filled(state, rng, capacity=5), [5, 0, 2])
    with safe_open(path, "numpy") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(arrays | {"position": np.asarray(position)}, path, metadata)
    with pytest.raises(BadInputError, match=words):
        state.load(path)


def test_positions_that_no_count_follows(tmp_path: Path, rng: np.random.Generator) -> None:
    state = spec(*RINGS)
    with pytest.raises(UsageError, match="cannot save the state: its rows have"):
        state.save(tmp_path / "s.safetensors", filled(state, rng), [2**63 - 1, 0, 0])


def test_other_states_and_damaged_files_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    state = spec(*RINGS)
    path = tmp_path / "s.safetensors"
    arrays = filled(state, rng)
    with pytest.raises(UsageError, match=r"past\.0\.ring is missing"):
        state.save(path, {}, [1, 1, 1])
    with pytest.raises(UsageError, match=r"past\.0\.ring is float32 \[3, 4, 32\]"):
        state.save(path, arrays, [1, 1])
    assert not path.exists()
    state.save(path, arrays, [1, 1, 1])
    with pytest.raises(BadInputError, match="another model"):
        spec(*RINGS, rollback=1).load(path)
    with pytest.raises(BadInputError, match="another model"):
        spec(*RINGS, precision="fp16").load(path)
    whole = path.read_bytes()
    for cut in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadInputError, match="not a readable state"):
            state.load(path)
    with pytest.raises(BadInputError):
        state.load(tmp_path / "missing.safetensors")


def test_positions_limit_what_a_row_may_reach() -> None:
    model = language_model(SoftmaxConfig())
    model.config = dataclasses.replace(model.config, max_length=6, positions="sinusoidal")
    assert StateSpec.of(model, capacity=9).longest() == 6
    assert StateSpec.of(model).longest(4) == 4
