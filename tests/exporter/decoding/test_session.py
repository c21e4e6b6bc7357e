"""Sessions read sequences in any pieces, and forget, copy and take back what they read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.exporter.decoding.harness import (
    CAPACITY,
    EMULATOR,
    RUNTIMES,
    checkpoint,
    needs_emulator,
    needs_library,
    open_session,
    random_tokens,
    read_in_pieces,
)
from tests.exporter.exporting.models import language_model

import hsm_export
from hsm_export import DecodeSession
from hsm_export.errors import BadInputError, UsageError
from hsm_models import HSMConfig, load_checkpoint, save_checkpoint

LENGTHS = np.array([40, 17, 29])


@pytest.fixture
def rng(generator: torch.Generator) -> np.random.Generator:
    return np.random.default_rng(generator.initial_seed())


def test_torch64_is_the_full_pass_in_float64(rng: np.random.Generator) -> None:
    session = open_session("hybrid", "torch64", batch=3)
    tokens = random_tokens(rng, session, 40)
    rows = read_in_pieces(session, tokens, LENGTHS, rng)
    with torch.inference_mode():
        full = load_checkpoint(checkpoint("hybrid")).double()(torch.from_numpy(tokens)).numpy()
    for row, length in enumerate(LENGTHS):
        assert rows[row].dtype == np.float64
        np.testing.assert_allclose(rows[row], full[row, :length], atol=1e-10)


@pytest.mark.parametrize("runtime", [*RUNTIMES, "onnx-reference", pytest.param("cuda-emulated", marks=needs_emulator)])
def test_any_pieces_give_the_logits_of_the_full_pass(
    runtime: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HSM_EMULATED_LIBRARY", str(EMULATOR))
    session = open_session("hybrid", runtime, batch=3)
    assert session.runtime == runtime
    tokens = random_tokens(rng, session, 40)
    rows = read_in_pieces(session, tokens, LENGTHS, rng)
    assert session.positions.tolist() == LENGTHS.tolist()
    model = load_checkpoint(checkpoint("hybrid"))
    with torch.inference_mode():
        native = model(torch.from_numpy(tokens)).numpy()
        exact = model.double()(torch.from_numpy(tokens)).numpy()
    allowed = 2 * np.abs(native - exact).max() + 4 * np.finfo(np.float32).eps * np.abs(exact).max()
    for row, length in enumerate(LENGTHS):
        assert np.abs(rows[row] - exact[row, :length]).max() <= allowed


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_rows_are_reset_forked_and_restored_to_the_bit(runtime: str, rng: np.random.Generator) -> None:
    session = open_session("hybrid", runtime, batch=2)
    tokens = random_tokens(rng, session, 30)
    session.step(tokens[:, :10])
    before = session.snapshot()
    branch = session.fork([1, 0, 1])
    expected = session.step(tokens[:, 10:15])
    ours = branch.step(tokens[[1, 0, 1], 10:15])
    assert branch.positions.tolist() == [15, 15, 15]
    np.testing.assert_array_equal(ours[0], ours[2])
    session.restore(before)
    assert session.positions.tolist() == [10, 10]
    np.testing.assert_array_equal(session.step(tokens[:, 10:15]), expected)

    fresh = open_session("hybrid", runtime, batch=2)
    first = fresh.step(tokens[:, :5])
    session.reset_rows([0])
    assert session.positions.tolist() == [0, 15]
    np.testing.assert_array_equal(session.step(tokens[:, :5], [5, 0])[0], first[0])
    assert session.positions.tolist() == [5, 15]
    session.reset(2)
    np.testing.assert_array_equal(session.step(tokens[:, :5]), first)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_idle_row_stands_still(runtime: str, rng: np.random.Generator) -> None:
    session = open_session("hybrid", runtime, batch=2)
    tokens = random_tokens(rng, session, 20)
    session.step(tokens[:, :9])
    still = session.snapshot()
    session.step(tokens[:, 9:12], [3, 0])
    session.step(tokens[:, 12:13], [1, 0])
    moved = session.snapshot()
    assert moved.positions.tolist() == [13, 9]
    for name, array in still.state.items():
        np.testing.assert_array_equal(array[1], moved.state[name][1], err_msg=name)


@pytest.mark.parametrize(
    "runtime",
    ["torch", *(pytest.param(name, marks=(pytest.mark.slow, needs_library)) for name in ("ort", "ort-fused"))],
)
def test_tokens_are_taken_back_to_the_bit(runtime: str, rng: np.random.Generator) -> None:
    session = open_session("no-sums", runtime, batch=2, rollback=4)
    tokens = random_tokens(rng, session, 30)
    session.step(tokens[:, :12])
    branch = session.fork()
    session.step(tokens[:, 20:24], [4, 3])
    session.rollback([4, 3])
    assert session.positions.tolist() == [12, 12]
    np.testing.assert_array_equal(session.step(tokens[:, 12:16]), branch.step(tokens[:, 12:16]))
    with pytest.raises(UsageError, match="back"):
        session.rollback(17)


def test_running_sums_cannot_be_taken_back(rng: np.random.Generator) -> None:
    session = open_session("hybrid", "torch", rollback=2)
    session.step(random_tokens(rng, session, 5))
    with pytest.raises(UsageError, match="holds no single tokens"):
        session.rollback(1)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_saved_session_goes_on_elsewhere(runtime: str, tmp_path: Path, rng: np.random.Generator) -> None:
    session = open_session("hybrid", runtime, batch=2)
    tokens = random_tokens(rng, session, 20)
    session.step(tokens[:, :11], [11, 7])
    session.save(tmp_path / "state.safetensors")
    expected = session.step(tokens[:, 11:13])
    other = open_session("hybrid", runtime, capacity=2 * CAPACITY)
    other.load(tmp_path / "state.safetensors")
    assert other.positions.tolist() == [11, 7]
    ours = other.step(tokens[:, 11:13])
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    with pytest.raises(UsageError, match="reach 11 tokens, but the state holds 8"):
        open_session("hybrid", runtime, capacity=8).load(tmp_path / "state.safetensors")
    with pytest.raises(BadInputError):
        open_session("softmax", "torch").load(tmp_path / "state.safetensors")
    with pytest.raises(UsageError, match="another model"):
        open_session("softmax", "torch").restore(other.snapshot())


def test_a_state_belongs_to_its_weights(tmp_path: Path) -> None:
    saved = []
    model = language_model(HSMConfig(shifts=(1, 2)))
    for name in ("before", "after"):
        save_checkpoint(model, tmp_path / f"{name}.safetensors")
        hsm_export.export(tmp_path / f"{name}.safetensors", output=tmp_path / f"{name}.onnx", decode=True)
        saved.append(DecodeSession(tmp_path / f"{name}.onnx", "ort"))
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
    saved[0].step([[1, 2, 3]])
    saved[0].save(tmp_path / "state.safetensors")
    saved[0].load(tmp_path / "state.safetensors")
    with pytest.raises(BadInputError, match="saved with other weights"):
        saved[1].load(tmp_path / "state.safetensors")


def test_a_row_that_read_nothing_has_no_logits(rng: np.random.Generator) -> None:
    session = open_session("no-sums", "torch", batch=2)
    last = session.last_logits(random_tokens(rng, session, 3), [3, 0])
    assert np.isfinite(last[0]).all() and np.isnan(last[1]).all()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_row_that_outgrows_its_memory_is_refused_before_anything_runs(runtime: str, rng: np.random.Generator) -> None:
    session = open_session("hybrid", runtime, batch=2)
    tokens = random_tokens(rng, session, CAPACITY)
    session.step(tokens[:, :60])
    before = session.snapshot()
    with pytest.raises(UsageError, match=f"reach {CAPACITY + 1} tokens, but the state holds {CAPACITY}"):
        session.step(tokens[:, :5], [1, 5])
    assert session.positions.tolist() == [60, 60]
    for name, array in session.snapshot().state.items():
        np.testing.assert_array_equal(array, before.state[name])
    assert session.step(tokens[:, :5], [4, 0]).shape == (2, 5, session.vocab_size)
    assert session.positions.tolist() == [64, 60]


def test_states_that_do_not_grow_need_no_capacity(rng: np.random.Generator) -> None:
    session = DecodeSession(checkpoint("hsm-vector"))
    assert session.runtime == "torch"
    assert session.capacity is None
    with pytest.raises(UsageError, match="capacity"):
        DecodeSession(checkpoint("softmax"))


@pytest.mark.parametrize(
    ("tokens", "lengths", "words"),
    [
        ([1, 2], None, "tokens must be integers"),
        ([[1.0, 2.0], [1.0, 2.0]], None, "float64"),
        ([[1, 2]], None, "tokens must be integers"),
        ([[], []], None, "tokens must be integers"),
        ([[1, 2], [3, 41]], None, "token id 41 is not in 0..40"),
        ([[1, -2], [3, 4]], None, "token id -2"),
        ([[1, 2], [3, 4]], [1, 3], "lengths must be 2 numbers from 0 to 2"),
        ([[1, 2], [3, 4]], [1], "lengths must be"),
        ([[1, 2], [3, 4]], [-1, 1], "lengths must be"),
    ],
)
def test_misuse_is_refused(tokens: object, lengths: object, words: str) -> None:
    session = open_session("hsm-vector", "torch", batch=2)
    with pytest.raises(UsageError, match=words):
        session.step(tokens, lengths)  # type: ignore[arg-type]
    assert session.positions.tolist() == [0, 0]


def test_padding_may_hold_anything() -> None:
    session = open_session("hsm-vector", "torch", batch=2)
    tokens = np.array([[1, 2], [3, 999]])
    assert session.step(tokens, [2, 1]).shape == (2, 2, 41)
    assert tokens[1, 1] == 999


def test_what_cannot_decode_is_refused(tmp_path: Path) -> None:
    for rows in ([], [2], [-1]):
        with pytest.raises(UsageError, match="rows must be"):
            open_session("hsm-vector", "torch", batch=2).fork(rows)
    with pytest.raises(UsageError, match="at least one row"):
        DecodeSession(checkpoint("hsm-vector"), batch=0)
    with pytest.raises(UsageError, match="runtime 'magic'"):
        DecodeSession(checkpoint("hsm-vector"), "magic")
    with pytest.raises(UsageError, match="does not decode"):
        DecodeSession("zoo:taylor-shift-digits")
    with pytest.raises(BadInputError, match="does not exist"):
        DecodeSession(tmp_path / "none.onnx")
