"""The training loop: it learns, it repeats itself bit for bit, and it resumes as if it had never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hsm_models.data import TextData
from hsm_models.errors import CheckpointError, ConfigError
from hsm_models.trainer import Trainer, parameter_groups, run
from hsm_models.training_settings import HELP, TrainingSettings

SETTINGS = TrainingSettings(steps=30, batch=4, length=8, lr=1e-2, warmup=5)


class Bigram(nn.Module):
    """The smallest language model: logits of the next symbol from the current one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.output = nn.Linear(8, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.embedding(tokens))


def trainer(settings: TrainingSettings = SETTINGS) -> Trainer:
    torch.manual_seed(settings.seed)
    return Trainer(Bigram(), TextData(torch.arange(2000) % 16, settings.length), settings)


def weights(trained: Trainer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in trained.model.parameters()]


def assert_same_bits(one: Trainer, other: Trainer) -> None:
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_the_loss_goes_down() -> None:
    learner = trainer()
    before = learner.evaluate()
    run(learner)
    assert learner.evaluate() < before - 0.5


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    first, second, other = trainer(), trainer(), trainer(TrainingSettings(**(vars(SETTINGS) | {"seed": 1})))
    for learner in (first, second, other):
        run(learner)
    assert_same_bits(first, second)
    assert not torch.equal(weights(first)[0], weights(other)[0])


@pytest.mark.parametrize("interrupted_at", [1, 13, 29])
def test_a_resumed_run_equals_an_uninterrupted_one(interrupted_at: int, tmp_path: Path) -> None:
    whole = trainer()
    run(whole)
    first = trainer()
    with pytest.raises(KeyboardInterrupt):
        run(first, tmp_path / "state", stop=lambda: first.step == interrupted_at)
    second = trainer()
    second.load(tmp_path / "state")
    assert second.step == interrupted_at
    run(second)
    assert_same_bits(whole, second)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    trainer().save(tmp_path / "state")
    with pytest.raises(ConfigError, match="other settings: batch; give --batch 4"):
        trainer(TrainingSettings(**(vars(SETTINGS) | {"batch": 5, "lr": 1.0}))).load(tmp_path / "state")


def test_a_damaged_or_missing_state_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with pytest.raises(CheckpointError, match="no training state"):
        trainer().load(state)
    trainer().save(state)
    for content in (state.read_bytes()[:-100], b"hello", b""):
        state.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or no training state"):
            trainer().load(state)
    torch.save({"model": {}}, state)
    with pytest.raises(CheckpointError, match="no training state"):
        trainer().load(state)


def test_a_state_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "hacked",))  # type: ignore[return-value]

    torch.save({"model": Hostile()}, tmp_path / "state")
    with pytest.raises(CheckpointError):
        trainer().load(tmp_path / "state")
    assert not (tmp_path / "hacked").exists()


def test_an_unwritable_state_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write the training state"):
        trainer().save(tmp_path / "missing" / "state")


def test_divergence_stops_with_advice() -> None:
    learner = trainer(TrainingSettings(**(vars(SETTINGS) | {"lr": 1e30, "warmup": 0})))
    with pytest.raises(ConfigError, match=r"training diverged.*learning rate below 1e\+30"):
        run(learner)


def test_progress_looks_at_held_out_data_as_often_as_asked() -> None:
    news = []
    run(trainer(TrainingSettings(**(vars(SETTINGS) | {"evaluate_every": 10}))), progress=news.append)
    assert [item.step for item in news] == list(range(1, 31))
    assert [item.step for item in news if item.held_out is not None] == [10, 20]


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    settings = TrainingSettings(steps=100, warmup=10, lr=1.0, final_fraction=0.1)
    rates = [settings.learning_rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_only_matrices_that_are_no_embeddings_decay() -> None:
    model = Bigram()
    model.temperature = nn.Parameter(torch.ones(1, 4, 1, 1))
    decayed, free = parameter_groups(model, 0.1)
    assert [p is model.output.weight for p in decayed["params"]] == [True]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert len(free["params"]) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"length": -1},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"warmup": -1},
        {"clip": float("inf")},
        {"weight_decay": -0.1},
        {"beta2": 1.0},
        {"seed": -1},
        {"final_fraction": 2.0},
        {"level": "word"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainingSettings(**wrong)  # type: ignore[arg-type]


def test_every_setting_is_described() -> None:
    assert list(HELP) == list(TrainingSettings.__dataclass_fields__)
