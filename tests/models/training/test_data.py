"""Training data: what is held out stays held out, and bad data is refused with a reason."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hsm_models import LayerConfig, ModelConfig, SoftmaxConfig
from hsm_models.data import Tally, TextData, load_data, load_digits, load_sequences, load_text
from hsm_models.errors import ConfigError, DataError


def text_model(**options: object) -> ModelConfig:
    values = {"vocab_size": 256, "width": 8, "layers": (LayerConfig(SoftmaxConfig(heads=2)),)} | options
    return ModelConfig(task="language_model", **values)  # type: ignore[arg-type]


def pixel_model(**options: object) -> ModelConfig:
    values = {"vocab_size": 17, "classes": 10, "width": 8, "pooling": "mean"} | options
    return ModelConfig(task="sequence_classifier", input="pixels", **values)  # type: ignore[arg-type]


def test_batches_come_from_the_training_part_and_targets_are_the_next_symbols(generator: torch.Generator) -> None:
    symbols = torch.arange(1000)
    data = TextData(symbols, length=16)
    seen = set()
    for _ in range(200):
        (inputs,), targets = data.batch(8, generator)
        assert inputs.shape == targets.shape == (8, 16)
        assert torch.equal(targets, inputs + 1)
        seen |= set(targets.flatten().tolist())
    assert max(seen) == 949  # the last symbol of the training part is reached, the held-out 5 % are not


def test_held_out_windows_cover_their_part_once_and_in_order() -> None:
    data = TextData(torch.arange(1000), length=16)
    targets = torch.cat([batch[1] for batch in data.held_out(2)]).flatten()
    assert targets.tolist() == list(range(951, 951 + 48))
    assert sum(len(batch[1]) for batch in data.held_out(2, limit=1)) == 1


def test_bits_per_byte_of_a_uniform_guess_are_eight() -> None:
    data = TextData(torch.zeros(1000, dtype=torch.uint8), length=4)
    assert data.measure(Tally(loss=10 * math.log(256), hits=0, count=10)) == pytest.approx(8.0)
    assert data.metric == "bits_per_byte"


def test_text_is_read_as_bytes_or_as_characters(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("aé" * 200, encoding="utf-8")
    as_bytes = load_text(path, 4)
    assert bytes(as_bytes.train_symbols[:3].tolist()) == "aé".encode()
    characters = load_text(path, 4, "char")
    assert characters.vocabulary == "aé"
    assert characters.train_symbols[:4].tolist() == [0, 1, 0, 1]
    assert characters.metadata()["vocabulary"] == '"a\\u00e9"'
    assert characters.metric == "bits_per_character"


def test_bad_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    with pytest.raises(DataError, match=r"cannot read .*text\.txt: No such file"):
        load_text(path, 4)
    path.write_bytes(b"\xff" * 200)
    with pytest.raises(DataError, match="not UTF-8"):
        load_text(path, 4, "char")
    with pytest.raises(DataError, match=r"200 symbols, too few .* give at least 220"):
        load_text(path, 10)
    with pytest.raises(DataError, match="cannot read"):
        load_text(tmp_path, 4)


def test_digits_are_complete_split_and_in_range() -> None:
    data = load_digits()
    assert data.sequences.shape == (1797, 64)
    assert (int(data.sequences.min()), int(data.sequences.max())) == (0, 16)
    held_out = list(data.held_out(100))
    assert sum(len(targets) for _, targets in held_out) == 359
    assert set(torch.cat([targets for _, targets in held_out]).tolist()) == set(range(10))
    assert torch.equal(load_digits().labels, data.labels)


def test_pixels_of_training_images_vary_a_little_and_held_out_ones_stay(generator: torch.Generator) -> None:
    data = load_digits()
    data.sequences[:] = torch.tensor([0, 8, 15, 16]).repeat(16)
    (rows,), _ = data.batch(300, generator)
    found = [set(rows[:, column::4].flatten().tolist()) for column in range(4)]
    assert found == [{0, 1, 2}, {6, 7, 8, 9, 10}, {13, 14, 15, 16}, {14, 15, 16}]
    for (rows,), _ in data.held_out(50):
        assert torch.equal(rows, data.sequences[: len(rows)])


def test_masked_models_get_lengths(generator: torch.Generator) -> None:
    data = load_digits(masked=True)
    (_, lengths), _ = data.batch(300, generator)
    assert (int(lengths.min()), int(lengths.max())) == (32, 64)
    assert all((lengths == 64).all() for (_, lengths), _ in data.held_out(50))


def test_labelled_sequences_are_read_from_npz(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, pixels=np.arange(60, dtype=np.uint8).reshape(20, 3) % 5, labels=np.arange(20) % 2)
    data = load_sequences(path, "pixels")
    assert data.train_count == 19
    assert data.metric == "accuracy"
    with pytest.raises(DataError, match="'tokens'"):
        load_sequences(path, "tokens")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"pixels": np.zeros((4, 3)), "labels": np.zeros(4, np.int64)}, "float64"),
        ({"pixels": np.full((4, 3), -1), "labels": np.zeros(4, np.int64)}, "negative"),
        ({"pixels": np.zeros((4, 3), np.int64), "labels": np.zeros(5, np.int64)}, r"\(N,T\)"),
        ({"pixels": np.zeros((1, 3), np.int64), "labels": np.zeros(1, np.int64)}, "too few"),
        ({"pixels": np.array([object()]), "labels": np.zeros(1, np.int64)}, "must be an .npz"),
    ],
)
def test_bad_sequences_are_refused(arrays: dict[str, np.ndarray], reason: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)
    with pytest.raises(DataError, match=reason):
        load_sequences(tmp_path / "rows.npz", "pixels")


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, pixels=np.zeros((9, 3), np.int64), labels=np.zeros(9, np.int64))
    for damaged in (path.read_bytes()[:-30], b"hello", b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"must be an \.npz"):
            load_sequences(path, "pixels")


def test_a_model_without_room_for_the_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abc" * 200)
    with pytest.raises(ConfigError, match="vocab_size is 100, but the training data needs at least 256"):
        load_data(text_model(vocab_size=100), path, 8)
    with pytest.raises(ConfigError, match="vocab_size is 2, but the training data needs at least 3"):
        load_data(text_model(vocab_size=2), path, 8, "char")
    with pytest.raises(ConfigError, match="max_length is 4"):
        load_data(text_model(positions="learned", max_length=4), path, 8)
    with pytest.raises(ConfigError, match="classes is 9"):
        load_data(pixel_model(classes=9), "digits", 1)
    assert load_data(pixel_model(), "digits", 1).metric == "accuracy"
