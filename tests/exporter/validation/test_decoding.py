"""Validation of decoding files: cutting and joining, exactness, healthy files, and faults that must be found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.exporter.decoding.harness import checkpoint, decode_file, needs_library
from tests.exporter.exporting.models import MIXERS, classifier, language_model
from tests.exporter.validation.toy import SHIFT, VOCAB, toy_context, toy_runtime, toy_state
from torch import Tensor, nn

import hsm_export
from hsm_export.errors import UsageError
from hsm_export.onnx_model.model_file import open_model
from hsm_export.validation.exactness import check_exactness
from hsm_export.validation.sequences import random_chunks, sequence_cases
from hsm_export.validation.stepping import stepping
from hsm_models.decoding import State, StateEntry, StatefulModule, valid

PRECISIONS = ("fp32", "fp16", "bf16")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def run_toy(feed: dict[str, Any], **options: Any) -> dict[str, Any]:
    state = toy_state(last_logits=options.pop("last_logits", False))
    with stepping(toy_runtime(None, state), state, **options).runner(toy_context()) as runner:
        return dict(runner.infer(feed))


def toy_feed(rng: np.random.Generator) -> dict[str, Any]:
    lengths = np.array([17, 1, 9])
    tokens = rng.integers(1, VOCAB, (3, 17))
    return {"tokens": tokens, "lengths": lengths, "chunks": random_chunks(rng, lengths)}


def test_pieces_are_joined_to_what_one_call_gives(rng: np.random.Generator) -> None:
    feed = toy_feed(rng)
    pieces, whole = run_toy(feed), run_toy(feed, whole=True)
    expected = np.zeros((3, 17, 2), np.float32)
    for b, length in enumerate(feed["lengths"]):
        expected[b, :length, 0] = feed["tokens"][b, :length]
        expected[b, SHIFT:length, 1] = feed["tokens"][b, : max(0, length - SHIFT)]
    np.testing.assert_array_equal(pieces["logits"], expected)
    np.testing.assert_array_equal(whole["logits"], expected)
    np.testing.assert_array_equal(pieces["present.0.ring"], whole["present.0.ring"])


def test_last_logits_are_put_where_they_belong(rng: np.random.Generator) -> None:
    feed = toy_feed(rng)
    every, last = run_toy(feed), run_toy(feed, last_logits=True)
    computed = (last["logits"] != 0).any(-1)
    np.testing.assert_array_equal(last["logits"][computed], every["logits"][computed])
    assert computed.sum() == (feed["chunks"] > 0).sum()
    assert computed[np.arange(3), feed["lengths"] - 1].all()


def test_random_chunks_use_every_token_once(rng: np.random.Generator) -> None:
    lengths = np.array([40, 3, 25])
    chunks = random_chunks(rng, lengths)
    assert chunks.sum(0).tolist() == lengths.tolist()
    assert (chunks.max(1) > 0).all()
    assert (chunks[: len(chunks) // 2] == 0).any()  # some row stands still before its end
    assert (chunks == 1).any()
    assert (chunks > 1).any()


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        (None, set()),
        ("writes padding", {"rows of length 0"}),
        ("mixes rows", {"forks", "rollback"}),
        ("sees what was taken back", {"rollback"}),
    ],
)
def test_exactness(fault: str | None, broken: set[str]) -> None:
    state = toy_state()
    exact, inexact = check_exactness(stepping(toy_runtime(fault), state), toy_context(), state, VOCAB)
    wanted = {"rows of length 0", "forks", "rollback"}
    assert set(exact) == wanted - broken
    assert set(inexact) == {f"{what} are not exact to the bit" for what in broken}


def test_what_cannot_be_taken_back_is_not_tried() -> None:
    state = toy_state(spare=0)
    exact, inexact = check_exactness(stepping(toy_runtime(None, state), state), toy_context(), state, VOCAB)
    assert (set(exact), inexact) == ({"rows of length 0", "forks"}, ())


def validated(path: Path, against: Any, **options: Any) -> Any:
    return hsm_export.validate(path, against, **options)


@needs_library
def test_a_healthy_file_passes() -> None:
    path = decode_file("no-sums", rollback=3)
    result = validated(path, checkpoint("no-sums"), runtimes=["ort", "ort-fused"], steps=12)
    assert result.passed, result.summary
    assert [report.runtime for report in result.runtimes] == ["torch", "ort", "ort-fused"]
    for report in result.runtimes:
        assert report.decoding is not None
        assert report.decoding.steps == 12
        assert set(report.decoding.exact) == {"rows of length 0", "forks", "rollback"}
        assert {item.output for item in report.worst} > {"logits", "present.0.ring", "present.4.key"}
        assert 0 < report.decoding.last_error <= report.max_abs_error


def test_without_a_checkpoint_runtimes_are_compared() -> None:
    result = validated(decode_file("hsm-vector"), None, runtimes=["ort"], steps=5, shapes=[(2, 9)])
    assert result.passed, result.summary
    assert (result.arbiter, result.baseline) == ("onnx64", "onnx-reference")
    assert result.cases == ("one call", "random chunks 2×9", "single steps")
    assert any("no checkpoint given" in warning for warning in result.warnings)


def rewired(path: Path, target: Path, change: Any) -> Path:
    model = onnx.load(path)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    assert sum(map(change, nodes)) > 0
    onnx.save(model, target)
    return target


def forget_position(node: onnx.NodeProto) -> bool:
    """Make a ring forget where its row is."""
    if node.op_type != "ShiftMixCached":
        return False
    node.input[list(node.input).index("position")] = "lengths"
    return True


def hide_itself(node: onnx.NodeProto) -> bool:
    """Make a token blind to itself."""
    found = node.op_type == "LessOrEqual"
    node.op_type = "Less" if found else node.op_type
    return found


@pytest.mark.parametrize(("name", "fault"), [("hsm-vector", forget_position), ("no-sums", hide_itself)])
def test_faults_are_found(name: str, fault: Any, tmp_path: Path) -> None:
    path = decode_file(name, rollback=3) if name == "no-sums" else decode_file(name)
    result = validated(rewired(path, tmp_path / "m.onnx", fault), checkpoint(name), runtimes=["ort"], steps=8)
    assert not result.passed
    assert result.summary.startswith("ort: ")


def test_another_checkpoint_is_noticed() -> None:
    other = language_model(*MIXERS["hsm-vector"], seed=5)
    assert not validated(decode_file("hsm-vector"), other, runtimes=["ort"], steps=4).passed


def test_misuse_is_refused(tmp_path: Path) -> None:
    path = decode_file("hsm-vector")
    with pytest.raises(UsageError, match="no inputs of your own"):
        validated(path, None, inputs={"tokens": np.zeros((1, 2), np.int64)})
    for options in ({"shapes": [(0, 3)]}, {"steps": 0}):
        with pytest.raises(UsageError, match="must be at least 1"):
            validated(path, None, **options)
    with pytest.raises(UsageError, match="does not decode"):
        validated(path, classifier("tokens"), runtimes=["ort"])
    hsm_export.export(classifier("tokens"), output=tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="no state to step with"):
        validated(tmp_path / "m.onnx", None, steps=4)


def test_sequences_stay_within_the_capacity(rng: np.random.Generator) -> None:
    path = decode_file("softmax", capacity=8)
    file = open_model(path)
    cases, _ = sequence_cases(file, file.state(), None, 64)
    assert all(case.feed["lengths"].max() <= 8 for case in cases)
    assert sequence_cases(file, file.state(), [(2, 8)], 64)[0][-1].feed["lengths"].tolist() == [8]
    with pytest.raises(UsageError, match="beyond the 8 tokens"):
        sequence_cases(file, file.state(), [(1, 9)], 4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", sorted(MIXERS))
def test_every_mixer(name: str, precision: str) -> None:
    result = validated(decode_file(name, precision), checkpoint(name))
    assert result.passed, result.summary


ZOO = ("hsm-lm", "hsm-hybrid-lm", "switch-head-lm", "taylor-shift-lm", "baseline-softmax")


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ZOO)
def test_two_thousand_tokens_of_every_zoo_model(name: str, precision: str) -> None:
    path = decode_file(f"zoo:{name}", precision)
    result = validated(path, f"zoo:{name}", runtimes=["ort", "ort-fused"], shapes=[(1, 2000)], steps=16)
    assert result.passed, result.summary


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_errors_over_four_thousand_steps(name: str) -> None:
    path = decode_file(f"zoo:{name}")
    result = validated(path, f"zoo:{name}", runtimes=["ort-fused"], shapes=[(1, 8)], steps=4096)
    assert result.passed, result.summary
    native, fused = (report.decoding.last_error / report.decoding.first_error for report in result.runtimes)
    # Rotary angles grow with the position, and their rounding with them; states of HSM and TaylorShift do not.
    assert fused <= (2 if name in ("hsm-lm", "taylor-shift-lm") else 2 * max(native, 1))


class Summing(StatefulModule):
    """Sums that stay float32 in every precision: PyTorch, whose next layer is in float16, does not take them."""

    def state_entries(self, rollback: int = 0) -> dict[str, StateEntry]:
        return {"sum": StateEntry((8,), type="accumulator")}

    def step(self, x: Tensor, state: State, position: Tensor, lengths: Tensor) -> tuple[Tensor, State]:
        kept = torch.where(valid(x, lengths)[..., None], x, 0).to(state["sum"].dtype)
        sums = state["sum"][:, None] + kept.cumsum(1)
        return torch.tanh(sums), {"sum": state["sum"] + kept.sum(1)}


class Sums(nn.Module):
    """A language model of such sums."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.sums, self.head = nn.Embedding(32, 8), Summing(), nn.Linear(8, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.sums(self.embedding(tokens)))
        return logits


def test_a_model_that_pytorch_cannot_run_in_half_precision_is_held_to_onnxs_evaluator(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Sums().eval()
    hsm_export.export(model, output=tmp_path / "sums.onnx", decode=True, precision="fp16")
    result = hsm_export.validate(tmp_path / "sums.onnx", against=model, runtimes=["ort"])
    assert result.passed and result.baseline == "onnx-reference"
