"""Language models: decoding equals the full pass for every mixture of layers, precisions, and refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.models.decoding import decode, largest_difference, random_chunks, random_lengths
from tests.models.examples import CLASSIFIERS, LANGUAGE_MODELS

from hsm_models.errors import ConfigError
from hsm_models.language_model import LanguageModel


@pytest.fixture(params=sorted(LANGUAGE_MODELS))
def model(request: pytest.FixtureRequest, generator: torch.Generator) -> LanguageModel:
    built = LanguageModel(LANGUAGE_MODELS[request.param]).double().eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, mean=0.2, std=0.4, generator=generator)
    return built


def random_tokens(batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 11, (batch, length), generator=generator)


def test_decoding_is_the_full_pass(model: LanguageModel, generator: torch.Generator) -> None:
    tokens = random_tokens(3, 13, generator)
    full = model(tokens)
    assert full.shape == (3, 13, 11)
    chunks = random_chunks(random_lengths(3, 13, generator), generator)
    rows = decode(model.forward_cached, model.initial_state(3, 13), tokens, chunks)
    assert largest_difference(rows, full) <= 1e-10


def test_the_future_has_no_effect(model: LanguageModel, generator: torch.Generator) -> None:
    tokens = random_tokens(2, 9, generator)
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 11
    torch.testing.assert_close(model(changed)[:, :6], model(tokens)[:, :6], rtol=1e-12, atol=1e-12)


def test_logits_are_float32_at_half_precision(model: LanguageModel, generator: torch.Generator) -> None:
    tokens = random_tokens(2, 7, generator)
    exact = model(tokens)
    assert exact.dtype == torch.float64
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        logits = model.to(dtype)(tokens)
        assert logits.dtype == torch.float32
        assert bool(torch.isfinite(logits).all())
        stepped, _ = model.forward_cached(
            tokens, model.initial_state(2, 7), torch.zeros(2, dtype=torch.int64), torch.tensor([7, 7])
        )
        assert stepped.dtype == torch.float32


def test_state_keys_name_their_layer() -> None:
    state = LanguageModel(LANGUAGE_MODELS["hybrid"]).initial_state(2, 5)
    assert sorted(state) == ["0.ring", "1.key", "1.value", "2.norm", "2.state", "3.key", "3.relative", "3.value"]
    assert state["3.key"].shape == (2, 5, 2, 6)


def test_tied_embeddings_are_stored_once() -> None:
    names = LanguageModel(LANGUAGE_MODELS["hybrid"]).state_dict()
    assert "embedding.weight" in names
    assert "output.weight" not in names


def test_embedding_scale_multiplies_the_embedding(generator: torch.Generator) -> None:
    config = LANGUAGE_MODELS["switch_head"]
    scaled = LanguageModel(config).double()
    plain = LanguageModel(dataclasses.replace(config, embedding_scale=1.0)).double()
    plain.load_state_dict(scaled.state_dict())
    with torch.no_grad():
        plain.embedding.weight.mul_(4.0)
    tokens = random_tokens(2, 5, generator)
    torch.testing.assert_close(scaled(tokens), plain(tokens))


@pytest.mark.parametrize("name", ["taylor_shift", "learned_positions"])
def test_sequences_beyond_max_length_are_refused(name: str) -> None:
    model = LanguageModel(LANGUAGE_MODELS[name])
    limit = model.config.max_length
    with pytest.raises(ValueError, match=f"exceed the model's max_length {limit}"):
        model(torch.zeros(1, limit + 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=f"exceed the model's max_length {limit}"):
        model.forward_cached(
            torch.zeros(1, 2, dtype=torch.int64),
            model.initial_state(1, limit + 9),
            torch.tensor([limit - 1]),
            torch.tensor([2]),
        )
    model(torch.zeros(1, limit, dtype=torch.int64))


def test_a_row_outgrowing_the_cache_is_refused(generator: torch.Generator) -> None:
    model = LanguageModel(LANGUAGE_MODELS["hybrid"])
    with pytest.raises(ValueError, match="holds 4 tokens"):
        model.forward_cached(
            random_tokens(1, 5, generator), model.initial_state(1, 4), torch.tensor([0]), torch.tensor([5])
        )


def test_a_classifier_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="language_model"):
        LanguageModel(CLASSIFIERS["tokens"])
