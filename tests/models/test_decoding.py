"""The decoding step as a module, and what describes its state."""

from __future__ import annotations

import pytest
import torch
from tests.models.examples import LANGUAGE_MODELS

from hsm_models.decoding import DecodingModel
from hsm_models.language_model import LanguageModel


@pytest.mark.parametrize("last_logits", [False, True])
@pytest.mark.parametrize("name", sorted(LANGUAGE_MODELS))
def test_the_step_is_forward_cached(name: str, last_logits: bool, generator: torch.Generator) -> None:
    model = LanguageModel(LANGUAGE_MODELS[name]).double().eval()
    step = DecodingModel(model, last_logits)
    tokens = torch.randint(0, 11, (3, 4), generator=generator)
    position, lengths = torch.tensor([0, 2, 5]), torch.tensor([4, 0, 2])
    state = model.initial_state(3, 9)
    logits, *present = step(tokens, position, lengths, *state.values())
    expected, new_state = model.forward_cached(tokens, state, position, lengths)
    if last_logits:
        assert logits.shape == (3, 1, 11)
        torch.testing.assert_close(logits[[0, 2], 0], expected[[0, 2], [3, 1]])
    else:
        torch.testing.assert_close(logits, expected, equal_nan=True)  # a row that stands still gives anything
    assert step.state_names == tuple(new_state)
    for mine, theirs in zip(present, new_state.values(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_step_shares_the_models_weights_and_names() -> None:
    model = LanguageModel(LANGUAGE_MODELS["hybrid"])
    step = DecodingModel(model)
    mine, theirs = dict(step.named_parameters()), dict(model.named_parameters())
    assert list(mine) == list(theirs)
    assert all(mine[name] is theirs[name] for name in mine)
    tokens = torch.tensor([[1, 2]])
    assert model(tokens).shape == (1, 2, 11)  # the model itself is as it was


@pytest.mark.parametrize("name", sorted(LANGUAGE_MODELS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_entries_describe_the_state(name: str, dtype: torch.dtype) -> None:
    model = LanguageModel(LANGUAGE_MODELS[name]).to(dtype)
    state, entries = model.initial_state(2, 7, 3), model.state_entries(3)
    assert list(state) == list(entries)
    for key, entry in entries.items():
        assert state[key].dtype == entry.dtype(dtype)
        assert state[key].shape == (2, *(7 if size is None else size for size in entry.shape))
    assert all((tensor == 0).all() for tensor in state.values())


def test_a_valid_token_beyond_the_learned_positions_is_refused_even_unchecked() -> None:
    # An exported graph has no check of its own: the table's lookup must refuse, and never wrap or clamp.
    model = LanguageModel(LANGUAGE_MODELS["learned_positions"])
    limit = model.config.max_length
    model._check_length = lambda longest: None  # type: ignore[method-assign]
    with pytest.raises(IndexError):
        model.forward_cached(
            torch.zeros(1, 2, dtype=torch.int64),
            model.initial_state(1, limit + 9),
            torch.tensor([limit - 1]),
            torch.tensor([2]),
        )
