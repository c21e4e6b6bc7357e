"""What training offers beside the loop: accumulation, dropout, autocast, the regulariser, fine-tuning, metrics, ids."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hsm_models import (
    HSMConfig,
    LanguageModel,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    SwitchHeadConfig,
    TaylorShiftConfig,
    zoo,
)
from hsm_models.checkpoint import build_model, load_checkpoint, read_metadata, save_checkpoint
from hsm_models.data import load_text
from hsm_models.errors import ConfigError, DataError
from hsm_models.regularising import Regulariser, choice_entropy
from hsm_models.tokenizer_files import tokenizer_beside
from hsm_models.train import plan
from hsm_models.trainer import Trainer, run
from hsm_models.training import train
from hsm_models.training_settings import TrainingSettings
from hsm_models.zoo import recipes

SETTINGS: dict[str, Any] = {"steps": 6, "batch": 6, "length": 16, "warmup": 1}
MIXERS: dict[str, Any] = {
    "hsm": HSMConfig(shifts=(1, 2)),
    "taylor_shift": TaylorShiftConfig(heads=2, causal=True),
    "switch_head": SwitchHeadConfig(heads=2, experts=3, active=2),
}


def model_of(mixer: str = "switch_head", experts: bool = True) -> ModelConfig:
    network = MoEConfig(experts=4, active=2, expert_width=8) if experts else MLPConfig(hidden=16)
    return ModelConfig(task="language_model", width=16, vocab_size=256, layers=(LayerConfig(MIXERS[mixer], network),))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return path


def trained(text: Path, mixer: str = "switch_head", **settings: Any) -> Trainer:
    torch.manual_seed(0)
    model = LanguageModel(model_of(mixer))
    learner = Trainer(model, load_text(text, 16), TrainingSettings(**(SETTINGS | settings)))
    run(learner)
    return learner


@pytest.mark.parametrize("parts", [2, 3, 4, 6])
def test_accumulation_takes_the_same_steps(parts: int, text: Path) -> None:
    whole, split = trained(text), trained(text, accumulate=parts)
    for one, other in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mixer", list(MIXERS))
def test_autocast_to_bfloat16_trains_every_mixer(mixer: str, text: Path) -> None:
    learner = trained(text, mixer, autocast="bf16", steps=20, lr=1e-2)
    assert learner.evaluate() < 6.5  # a fresh model is at 8
    assert all(parameter.dtype == torch.float32 for parameter in learner.model.parameters())


def test_dropout_acts_in_training_only(text: Path) -> None:
    model = LanguageModel(model_of())
    tokens = torch.randint(256, (2, 9))
    plain = model(tokens)
    with Regulariser(model, dropout=0.5):
        assert not torch.equal(model(tokens), plain)
    assert torch.equal(model(tokens), plain)
    assert trained(text, dropout=0.3).evaluate() != trained(text).evaluate()


def test_the_regulariser_is_the_entropy_of_the_mean_choice() -> None:
    logits = torch.randn(3, 5, 2, 4, dtype=torch.float64)
    mean = logits.softmax(-1).mean(dim=(1, 2)).numpy()
    expected = float(-(mean * np.log(mean)).sum(-1).mean())
    assert choice_entropy(logits).item() == pytest.approx(expected, rel=1e-12)
    mean = logits[:, :, 0].softmax(-1).mean(dim=(0, 1)).numpy()
    assert choice_entropy(logits[:, :, 0]).item() == pytest.approx(float(-(mean * np.log(mean)).sum()), rel=1e-12)
    assert choice_entropy(torch.zeros(1, 4, 2, 8)).item() == pytest.approx(np.log(8))


def test_the_regulariser_sees_every_router(text: Path) -> None:
    model = LanguageModel(model_of())
    regulariser = Regulariser(model, entropy=0.5)
    with regulariser:
        model(torch.randint(256, (2, 9)))
    assert len(regulariser._logits) == 3  # source, destination, feed-forward network
    penalty = regulariser.penalty()
    assert isinstance(penalty, torch.Tensor) and -0.5 * (2 * np.log(3) + np.log(4)) <= penalty.item() < 0
    assert not torch.equal(*(next(trained(text, entropy=weight).model.parameters()) for weight in (0.0, 0.1)))


def test_fine_tuning_starts_from_the_weights_of_a_checkpoint(text: Path, tmp_path: Path) -> None:
    settings = TrainingSettings(**(SETTINGS | {"steps": 30, "lr": 1e-2}))
    first = train(model_of(experts=False), text, tmp_path / "a.safetensors", settings)
    tuned = train(
        None,
        text,
        tmp_path / "b.safetensors",
        TrainingSettings(**(SETTINGS | {"lr": 1e-5})),
        init=tmp_path / "a.safetensors",
    )
    assert abs(tuned.held_out - first.held_out) < 0.1
    assert read_metadata(tmp_path / "b.safetensors")["trained_from"]
    with pytest.raises(ConfigError, match="not the one of"):
        train(model_of(), text, tmp_path / "c.safetensors", settings, init=tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="give a model configuration"):
        train(None, text, tmp_path / "c.safetensors", settings)


def test_metrics_are_a_line_a_step_also_over_a_resumption(text: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "m.safetensors", tmp_path / "log.jsonl"
    settings = TrainingSettings(**(SETTINGS | {"evaluate_every": 2}))
    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train(
            model_of(), text, output, settings, metrics=log,
            progress=lambda news: steps.append(news.step), stop=lambda: steps[-1] == 3,
        )  # fmt: skip
    with log.open("a") as file:
        file.write('{"step": 4, "loss": 0')  # as a kill leaves it
    train(model_of(), text, output, settings, metrics=log, resume=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["held_out"] is not None for line in lines] == [False, True, False, True, False, False]
    assert lines[0]["loss"] > 0 and lines[-1]["seconds"] >= lines[0]["seconds"]


def test_metrics_that_cannot_be_written_are_refused_before_training(text: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write the metrics"):
        train(model_of(), text, tmp_path / "m", TrainingSettings(**SETTINGS), metrics=tmp_path / "no" / "log.jsonl")


def test_ids_of_a_tokenizer_are_mapped_from_the_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 200, 4000).astype(np.uint16))
    result = train(model_of(), tmp_path / "ids.npy", tmp_path / "m.safetensors", TrainingSettings(**SETTINGS))
    assert result.metric == "bits_per_token"
    assert isinstance(load_text(tmp_path / "ids.npy", 16).train_symbols, np.memmap)
    np.save(tmp_path / "ids.npy", np.full(4000, 256))
    with pytest.raises(ConfigError, match="vocab_size is 256, but the training data needs at least 257"):
        train(model_of(), tmp_path / "ids.npy", tmp_path / "n.safetensors", TrainingSettings(**SETTINGS))
    np.save(tmp_path / "ids.npy", np.zeros((2, 5)))
    with pytest.raises(DataError, match="one dimension of integers"):
        train(model_of(), tmp_path / "ids.npy", tmp_path / "n.safetensors", TrainingSettings(**SETTINGS))


def test_the_tokenizer_of_ids_goes_with_the_checkpoint(text: Path, tmp_path: Path) -> None:
    settings = TrainingSettings(**SETTINGS)
    ids, words = tmp_path / "ids.npy", tmp_path / "words.txt"
    np.save(ids, np.random.default_rng(0).integers(0, 200, 4000))
    words.write_text("1 'a' 1\n")
    result = train(model_of(), ids, tmp_path / "m.safetensors", settings, tokenizer=words)
    assert result.tokenizer == tmp_path / "m.tokenizer.txt" and result.tokenizer.read_text() == words.read_text()
    # From there into a folder, and nowhere where the symbols are bytes.
    tuned = train(None, ids, tmp_path / "tuned", settings, init=tmp_path / "m.safetensors")
    assert tuned.tokenizer == tmp_path / "tuned" / "rwkv_vocab.txt" == tokenizer_beside(tmp_path / "tuned")
    with pytest.raises(ConfigError, match="belongs to ids"):
        train(model_of(), text, tmp_path / "n.safetensors", settings, tokenizer=words)
    with pytest.raises(ConfigError, match="there is no tokenizer"):
        train(model_of(), ids, tmp_path / "n.safetensors", settings, tokenizer=tmp_path / "nothing.json")


def test_a_recipe_brings_its_tokenizer_with_its_own_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "data_path", lambda recipe: tmp_path / "ids.npy")
    beside = tokenizer_beside(zoo.path("hsm-dictionary"))
    assert beside is not None and plan("hsm-dictionary", None, None, {}).tokenizer == beside
    assert plan("hsm-dictionary", None, "other.npy", {}).tokenizer is None
    assert plan("hsm-dictionary", None, "other.npy", {}, tokenizer="own.json").tokenizer == "own.json"
    assert plan("hsm-lm", None, None, {}).tokenizer is None


def test_fine_tuning_goes_on_with_the_symbols_of_the_checkpoint(text: Path, tmp_path: Path) -> None:
    settings, ids = TrainingSettings(**SETTINGS), tmp_path / "ids.npy"
    np.save(ids, np.random.default_rng(0).integers(0, 28, 4000))
    letters = TrainingSettings(**(SETTINGS | {"level": "char"}))
    config = dataclasses.replace(model_of(), vocab_size=28)
    for name, data, chosen in (("b", text, settings), ("c", text, letters), ("t", ids, settings)):
        train(model_of() if name == "b" else config, data, tmp_path / f"{name}.safetensors", chosen)
    for name, data, chosen, message in (
        ("b", text, letters, "was trained on bytes, and the training data are chars: give --level byte"),
        ("c", text, settings, "was trained on chars, and the training data are bytes: give --level char"),
        ("t", text, letters, "was trained on tokens.*give the ids of its tokenizer"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(None, data, tmp_path / "n.safetensors", chosen, init=tmp_path / f"{name}.safetensors")
    (tmp_path / "few.txt").write_text("zyx " * 300)  # other ids, if it had an alphabet of its own
    train(None, tmp_path / "few.txt", tmp_path / "few.safetensors", letters, init=tmp_path / "c.safetensors")
    assert (
        read_metadata(tmp_path / "few.safetensors")["vocabulary"]
        == read_metadata(tmp_path / "c.safetensors")["vocabulary"]
    )
    (tmp_path / "strange.txt").write_text("zyxé" * 300)
    with pytest.raises(DataError, match="characters that the model does not know: 'é'"):
        train(None, tmp_path / "strange.txt", tmp_path / "n.safetensors", letters, init=tmp_path / "c.safetensors")
    # An import does not say what its tokens are.
    save_checkpoint(build_model(config), tmp_path / "import.safetensors")
    with pytest.raises(ConfigError, match="has 28 tokens, whose texts it does not tell"):
        train(None, text, tmp_path / "n.safetensors", settings, init=tmp_path / "import.safetensors")


def test_a_device_that_is_not_there_is_one_clear_error(text: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the device 'abacus' cannot be used"):
        train(model_of(), text, tmp_path / "m", TrainingSettings(**SETTINGS), device="abacus")


@pytest.mark.parametrize("mixer", list(MIXERS))
def test_the_plain_loop_of_the_examples_trains_every_mixer(mixer: str, text: Path, tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "examples" / "training" / "plain_loop.py"
    assert len(path.read_text().splitlines()) <= 40
    loss = runpy.run_path(str(path))["main"](mixer, str(text), str(tmp_path / "m.safetensors"), steps=15, length=16)
    assert loss < 5.0
    assert load_checkpoint(tmp_path / "m.safetensors").config.width == 64
