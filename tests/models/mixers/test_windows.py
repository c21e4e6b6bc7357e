"""Attention through a window: against whole passes over the window alone, in steps, and after taking tokens back."""

from __future__ import annotations

import pytest
import torch
from tests.models.decoding import decode, largest_difference, random_chunks, random_lengths

from hsm_models.mixers import HSM, Mixer, SoftmaxAttention, SwitchHead

WIDTH, LENGTH = 12, 11


def attention(kind: str, window: int | None, generator: torch.Generator) -> Mixer:
    """Make a mixer with random weights, the same ones whatever the window."""
    mixers = {
        "softmax": lambda: SoftmaxAttention(WIDTH, heads=2, window=window),
        "softmax without positions": lambda: SoftmaxAttention(WIDTH, heads=2, positions="none", window=window),
        "switch-head": lambda: SwitchHead(WIDTH, window=window),
        "switch-head xl": lambda: SwitchHead(WIDTH, positions="xl", window=window),
        "switch-head xl, one expert": lambda: SwitchHead(WIDTH, experts=1, active=1, positions="xl", window=window),
    }
    mixer = mixers[kind]().double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return mixer


KINDS = ("softmax", "softmax without positions", "switch-head", "switch-head xl", "switch-head xl, one expert")


@pytest.mark.parametrize("window", [1, 3, LENGTH, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_sees_its_window_alone(kind: str, window: int, generator: torch.Generator) -> None:
    # All three positions are relative, so a token's output is that of a sequence that starts with its window.
    mixer = attention(kind, window, generator)
    unlimited = attention(kind, None, generator)
    unlimited.load_state_dict(mixer.state_dict())
    x = torch.randn(2, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    full = mixer(x)
    for t in range(LENGTH):
        alone = unlimited(x[:, max(0, t - window + 1) : t + 1])[:, -1]
        torch.testing.assert_close(full[:, t], alone, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rollback", [0, 3])
@pytest.mark.parametrize("window", [1, 3, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_the_full_pass(kind: str, window: int, rollback: int, generator: torch.Generator) -> None:
    mixer = attention(kind, window, generator)
    x = torch.randn(3, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    state = mixer.initial_state(3, 1, rollback)
    assert state["key"].shape[1] == window + rollback
    for slots in state.values():
        slots.normal_(generator=generator)  # what lies in a ring before the first token is never used
    chunks = random_chunks(random_lengths(3, LENGTH, generator), generator)
    rows = decode(mixer.forward_cached, state, x, chunks)
    assert largest_difference(rows, mixer(x)) <= 1e-12


@pytest.mark.parametrize("spare", [0, 1, 4])
@pytest.mark.parametrize("kind", ["hsm", *KINDS])
def test_spare_slots_let_tokens_be_taken_back(kind: str, spare: int, generator: torch.Generator) -> None:
    mixer = HSM(WIDTH, (1, 5)).double() if kind == "hsm" else attention(kind, 3, generator)
    x = torch.randn(2, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    wrong = torch.randn(2, 4, WIDTH, generator=generator, dtype=torch.float64)
    position = torch.tensor([6, 3])
    _, state = mixer.forward_cached(x[:, :6], mixer.initial_state(2, 1, spare), torch.zeros_like(position), position)
    taken_back = torch.tensor([spare, min(spare, 2)])
    _, state = mixer.forward_cached(wrong, state, position, taken_back)  # the guess that turns out to be wrong
    rest = torch.stack([x[0, 6:9], x[1, 3:6]])
    y, _ = mixer.forward_cached(rest, state, position, torch.tensor([3, 3]))
    full = mixer(x)
    torch.testing.assert_close(y, torch.stack([full[0, 6:9], full[1, 3:6]]), rtol=1e-11, atol=1e-12)


def test_a_window_of_no_token_is_refused() -> None:
    for make in (SoftmaxAttention, SwitchHead):
        with pytest.raises(ValueError, match="window must be at least 1"):
            make(WIDTH, heads=2, window=0)
