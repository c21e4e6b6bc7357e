"""Classifiers: inputs, masks, the CLS token and the position tables."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tests.models.examples import CLASSIFIERS, LANGUAGE_MODELS, WIDTH

from hsm_models.errors import ConfigError
from hsm_models.sequence_classifier import SequenceClassifier


def make(name: str, generator: torch.Generator) -> SequenceClassifier:
    model = SequenceClassifier(CLASSIFIERS[name]).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.2, std=0.4, generator=generator)
    return model


def random_inputs(model: SequenceClassifier, batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
    if model.config.image is not None:
        return torch.randn(batch, 3, 12, 12, generator=generator, dtype=torch.float64)
    return torch.randint(0, model.config.vocab_size, (batch, length), generator=generator)


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_logits_have_one_row_per_sequence_at_every_precision(name: str, generator: torch.Generator) -> None:
    model = make(name, generator)
    inputs = random_inputs(model, 3, 8, generator)
    assert model(inputs).shape == (3, 5)
    assert model(inputs).dtype == torch.float64
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        logits = model.to(dtype)(inputs)
        assert logits.dtype == torch.float32
        assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", ["masked", "pixels", "around"])
def test_padding_has_no_effect(name: str, generator: torch.Generator) -> None:
    model = make(name, generator)
    inputs = random_inputs(model, 3, 10, generator)
    lengths = torch.tensor([10, 1, 4])
    batch = model(inputs, lengths)
    for b, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(batch[b], model(inputs[b : b + 1, :n])[0], rtol=1e-11, atol=1e-12)


def test_the_class_token_stands_first_and_gets_no_sinusoid(generator: torch.Generator) -> None:
    model = make("tokens", generator)
    tokens = random_inputs(model, 2, 7, generator)
    table = torch.zeros(7, WIDTH, dtype=torch.float64)
    for p in range(7):
        for c in range(WIDTH):
            angle = p / 10000 ** (c // 2 * 2 / WIDTH)
            table[p, c] = math.sin(angle) if c % 2 == 0 else math.cos(angle)
    one_hots = F.one_hot(tokens, 9).double()
    x = one_hots @ model.embedding.weight + model.embedding.bias + table
    x = torch.cat([model.cls_token.expand(2, -1, -1), x], dim=1)
    for layer in model.layers:
        x = x + layer.scale1 * layer.mixer(layer.norm1(x))
        x = x + layer.scale2 * layer.feed_forward(layer.norm2(x))
    want = model.output(F.layer_norm(x[:, 0], (WIDTH,), model.norm.weight, model.norm.bias, 1e-6))
    torch.testing.assert_close(model(tokens), want, rtol=1e-12, atol=1e-12)


def test_learned_positions_cover_the_class_token(generator: torch.Generator) -> None:
    assert make("image", generator).position_embedding.shape == (9 + 1, WIDTH)
    assert make("masked", generator).position_embedding.shape == (64 + 1, WIDTH)


def test_patches_are_read_row_by_row(generator: torch.Generator) -> None:
    model = make("image", generator)
    image = random_inputs(model, 1, 0, generator)
    patches = [image[0, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] for i in range(3) for j in range(3)]
    weight, bias = model.embedding.proj.weight.flatten(1), model.embedding.proj.bias
    want = torch.stack([weight @ patch.flatten() + bias for patch in patches])
    torch.testing.assert_close(model.embedding(image)[0], want, rtol=1e-12, atol=1e-12)


def test_sequences_beyond_max_length_are_refused(generator: torch.Generator) -> None:
    for name in ("tokens", "masked"):
        with pytest.raises(ValueError, match="max_length 64"):
            make(name, generator)(torch.zeros(1, 65, dtype=torch.int64))


def test_a_language_model_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="sequence_classifier"):
        SequenceClassifier(LANGUAGE_MODELS["hsm"])
