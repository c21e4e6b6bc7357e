"""What differences mean: perplexity, agreement, flips, and where greedy text parts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.exporter.validation.routed import write_routed
from tests.exporter.validation.tiny import change_weight, tiny_model, write_tiny

from hsm_export.comparison.predictions import (
    ClassifierTally,
    LanguageTally,
    classifier_metrics,
    language_metrics,
    scored_output,
)
from hsm_export.decoding.generator import Generator
from hsm_export.decoding.perplexity import negative_log_likelihood
from hsm_export.decoding.sampling import GREEDY
from hsm_export.decoding.session import DecodeSession
from hsm_export.diffing.generating import Generation, generate, with_generation
from hsm_export.onnx_model.model_file import ModelFile, open_model
from hsm_export.runtimes import get
from hsm_export.runtimes.routing import instrument
from hsm_export.runtimes.runtime import RunContext


def random_logits(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) * 3


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits)
    return e / e.sum(-1, keepdims=True)


def test_language_metrics_are_those_of_the_definitions() -> None:
    reference, value = random_logits(2, 5, 7), random_logits(2, 5, 7, seed=1)
    tokens, lengths = np.random.default_rng(2).integers(0, 7, (2, 5)), np.array([5, 3])
    found = language_metrics(reference, value.astype(np.float32), tokens, lengths)
    kl, surprise, right = [], [], 0
    for b, length in enumerate(lengths):
        for t in range(length):
            p, q = softmax(reference[b, t]), softmax(value.astype(np.float32)[b, t].astype(float))
            kl.append(float((p * np.log(p / q)).sum()))
            right += int(p.argmax() == q.argmax())
            if t + 1 < length:
                surprise.append(-math.log(q[tokens[b, t + 1]]))
    assert found.tokens == 8 and found.top1_agreement == right / 8
    assert found.kl == pytest.approx(np.mean(kl)) and found.kl_max == pytest.approx(max(kl))
    assert found.perplexity == pytest.approx(math.exp(np.mean(surprise)))
    assert found.reference_perplexity != found.perplexity


def test_equal_logits_agree_whatever_they_hold() -> None:
    logits = random_logits(1, 4, 5)
    logits[0, 1, 2] = -np.inf
    found = language_metrics(logits, logits)
    assert (found.tokens, found.top1_agreement, found.kl, found.perplexity) == (3, 1.0, 0.0, None)
    assert language_metrics(logits, logits, lengths=np.array([0])).tokens == 0


def test_nan_is_no_prediction() -> None:
    reference = random_logits(1, 2, 5)
    value = reference.copy()
    value[0, 1, 3] = np.nan
    found = language_metrics(reference, value)
    assert (found.top1_agreement, found.kl, found.kl_max) == (0.5, math.inf, math.inf)


def test_a_certain_runtime_is_infinitely_surprised() -> None:
    value = np.array([[[0.0, -math.inf], [0.0, 0.0]]])
    found = language_metrics(np.zeros((1, 2, 2)), value, np.array([[0, 1]]))
    assert found.perplexity == math.inf and found.reference_perplexity == pytest.approx(2.0)


def test_pieces_and_runs_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, value = random_logits(3, 6, 4), random_logits(3, 6, 4, seed=1)
    tokens = np.random.default_rng(0).integers(0, 4, (3, 6))
    at_once = language_metrics(reference, value, tokens)
    monkeypatch.setattr("hsm_export.comparison.predictions._PIECE", 9)
    tally = LanguageTally()
    for row in range(3):
        tally.add(reference[row : row + 1], value[row : row + 1], tokens[row : row + 1])
    assert tally.result().to_dict() == pytest.approx(at_once.to_dict())


def test_logits_of_the_last_token_have_no_perplexity() -> None:
    logits = random_logits(2, 1, 5)
    assert language_metrics(logits, logits, np.zeros((2, 9), int), np.array([9, 4])).perplexity is None


def test_classifier_metrics_count_flips() -> None:
    reference = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.5], [1.0, 0.0, 0.0], [0.0, 0.0, np.nan]])
    value = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 2.5], [np.nan, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = classifier_metrics(reference, value, np.array([0, 1, 1, 0]), "digits")
    assert (found.examples, found.flipped, found.accuracy, found.reference_accuracy) == (3, 2, 1 / 3, 2 / 3)
    first = found.flips[0]
    assert (first.case, first.row, first.reference, first.runtime, first.label) == ("digits", 1, 1, 2, 1)
    assert first.margin == 0.5
    assert classifier_metrics(reference, reference).accuracy is None


def test_shows_the_first_flips_only() -> None:
    tally = ClassifierTally()
    for _ in range(3):
        tally.add(np.tile([1.0, 0.0], (9, 1)), np.tile([0.0, 1.0], (9, 1)))
    found = tally.result()
    assert (found.examples, found.flipped, len(found.flips)) == (27, 27, 20)


def test_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        language_metrics(np.zeros((1, 2, 3)), np.zeros((1, 2, 4)))
    with pytest.raises(ValueError, match="cannot be compared"):
        classifier_metrics(np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="labels"):
        classifier_metrics(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(3, int))


def test_outputs_of_another_rank_than_the_file_says_are_no_logits() -> None:
    tally = ClassifierTally()
    tally.add(np.zeros((1, 2, 3)), np.zeros((1, 2, 3)))
    assert tally.result().examples == 0


def context_of(path: Path, source: Any = None) -> tuple[ModelFile, RunContext]:
    file = open_model(path)
    model, routed = instrument(file.model)
    return file, RunContext(model, path.parent, file.precision, source, routed)


@pytest.mark.parametrize("runtime", ["ort", "onnx64"])
def test_generates_the_same_text_with_and_without_a_state(whole: Path, decoding: Path, runtime: str) -> None:
    prompt = np.frombuffer(b"a prompt", np.uint8).astype(np.int64)
    texts = []
    for path in (whole, decoding):
        file, context = context_of(path)
        assert scored_output(file) == ("language_model", "logits")
        texts.append(generate(file, get(runtime), context, prompt, 12))
    assert texts[0].tokens == texts[1].tokens and texts[0].logits.shape == (12, 256)
    np.testing.assert_allclose(texts[0].logits, texts[1].logits, atol=1e-4)


def test_generates_what_the_generator_does(decoding: Path) -> None:
    file, context = context_of(decoding)
    own = generate(file, get("ort"), context, np.frombuffer(b"a prompt", np.uint8).astype(np.int64), 12)
    result = Generator(DecodeSession(decoding, "ort", capacity=32)).generate("a prompt", max_tokens=12, sampling=GREEDY)
    assert own.tokens == tuple(result.completions[0].tokens)


def test_generates_with_a_choice_of_experts(tmp_path: Path) -> None:
    file, context = context_of(write_routed(tmp_path / "experts.onnx"))
    assert context.routed
    reference = generate(file, get("onnx64"), context, np.array([1, 2, 3]), 6)
    own = generate(file, get("ort"), context, np.array([1, 2, 3]), 6, until=reference)
    assert own.tokens == reference.tokens


def test_finds_the_first_token_that_differs(tmp_path: Path) -> None:
    right = write_tiny(tiny_model(), tmp_path / "right.onnx")
    wrong = write_tiny(tiny_model(), tmp_path / "wrong.onnx")
    change_weight(wrong, "down", lambda weight: weight[:, np.roll(np.arange(weight.shape[1]), 1)])
    prompt = np.array([4, 7])
    file, context = context_of(right)
    assert scored_output(file) == ("language_model", "logits")
    reference = generate(file, get("onnx64"), context, prompt, 20)
    own = generate(*(lambda f, c: (f, get("ort"), c))(*context_of(wrong)), prompt, 20, until=reference)
    metrics = with_generation(language_metrics(np.zeros((1, 1, 2)), np.zeros((1, 1, 2))), reference, own)
    same = with_generation(metrics, reference, generate(file, get("ort"), context, prompt, 20, until=reference))
    assert (same.greedy_tokens, same.first_divergence, same.diverging) == (20, None, None)
    assert metrics.first_divergence == len(own.tokens) - 1 and metrics.diverging is not None
    expected, token, margin = metrics.diverging
    assert expected != token and margin > 0 and token == own.tokens[-1]
    row = reference.logits[len(own.tokens) - 1]
    assert margin == row[expected] - row[token]


def test_stops_where_the_sequence_ends(tmp_path: Path) -> None:
    path = write_tiny(tiny_model(), tmp_path / "short.onnx", config='{"max_length": 6}', task="language_model")
    file, context = context_of(path)
    assert len(generate(file, get("ort"), context, np.array([1, 2, 3]), 3).tokens) == 3
    assert len(generate(file, get("ort"), context, np.arange(6), 9).tokens) == 6


def test_perplexity_is_that_of_the_command(whole: Path, decoding: Path) -> None:
    ids = np.frombuffer(b"the perplexity of this text", np.uint8).astype(np.int64)
    _, context = context_of(whole)
    with get("ort").runner(context) as runner:
        logits = runner.infer({"tokens": ids[None]}, check_inputs=False)["logits"]
    found = language_metrics(logits, logits, ids[None])
    total = negative_log_likelihood(DecodeSession(decoding, "ort", capacity=len(ids)), ids.tolist())
    assert found.perplexity == pytest.approx(math.exp(total / (len(ids) - 1)), rel=1e-5)


def test_knows_classifiers_by_their_output(tmp_path: Path) -> None:
    file, _ = context_of(write_tiny(tiny_model(), tmp_path / "x.onnx", task="sequence_classifier"))
    assert scored_output(file) == ("classification", "logits")


def test_a_generation_that_stops_early_is_compared_as_far_as_it_goes() -> None:
    metrics = language_metrics(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)))
    found = with_generation(metrics, Generation((1, 2, 3), np.eye(4)[:3]), Generation((1,), np.eye(4)[:1]))
    assert found.first_divergence is None
