"""HSM: definition, receptive field, padding rules, every mixing function, decoding."""

from __future__ import annotations

import pytest
import torch
from tests.models.decoding import decode, largest_difference, random_chunks, random_lengths
from torch import Tensor, nn

from hsm_models.mixers import HSM
from hsm_models.mixers.mixing import MIXINGS

WIDTH = 12


class Difference(nn.Module):
    """What a user might write: a mixing function of the difference of both tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)

    def forward(self, current: Tensor, shifted: Tensor) -> Tensor:
        return torch.tanh(self.project(current - shifted)) + current


def randomise(module: nn.Module, generator: torch.Generator) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return module


def make(mixing: str, shifts: tuple[int, ...], padding: str, generator: torch.Generator, causal: bool = True) -> HSM:
    chosen = Difference(WIDTH) if mixing == "user" else mixing
    mixer = HSM(WIDTH, shifts=shifts, mixing=chosen, padding=padding, causal=causal).double()
    randomise(mixer, generator)
    return mixer


def by_definition(mixer: HSM, x: Tensor) -> Tensor:
    """f(u_t, u_{t-s}) with the shifted tensor made token by token and channel by channel."""
    pad = torch.zeros(WIDTH, dtype=x.dtype) if mixer.pad is None else mixer.pad
    group = WIDTH // len(mixer.shifts)
    shifted = torch.empty_like(x)
    for t in range(x.shape[1]):
        for c in range(WIDTH):
            s = mixer.shifts[c // group]
            shifted[:, t, c] = x[:, t - s, c] if 0 <= t - s < x.shape[1] else pad[c]
    return mixer.mixing(x, shifted)


@pytest.mark.parametrize("padding", ["zero", "learned"])
@pytest.mark.parametrize("shifts", [(1,), (3,), (1, 2, 4), (9, 2), (0,), (2, 0, 1)])
@pytest.mark.parametrize("mixing", [*MIXINGS, "user"])
def test_matches_its_definition_and_decodes_to_the_same(
    mixing: str, shifts: tuple[int, ...], padding: str, generator: torch.Generator
) -> None:
    mixer = make(mixing, shifts, padding, generator)
    x = torch.randn(3, 7, WIDTH, generator=generator, dtype=torch.float64)
    full = mixer(x)
    torch.testing.assert_close(full, by_definition(mixer, x), rtol=1e-12, atol=1e-12)
    chunks = random_chunks(random_lengths(3, 7, generator), generator)
    rows = decode(mixer.forward_cached, mixer.initial_state(3, 7), x, chunks)
    assert largest_difference(rows, full) <= 1e-12


@pytest.mark.parametrize("padding", ["zero", "learned"])
@pytest.mark.parametrize("shifts", [(-1,), (2, -3, 0), (-9, 8), (0,), (1, 2)])
@pytest.mark.parametrize("mixing", [*MIXINGS, "user"])
def test_later_tokens_are_read_within_each_rows_length(
    mixing: str, shifts: tuple[int, ...], padding: str, generator: torch.Generator
) -> None:
    mixer = make(mixing, shifts, padding, generator, causal=False)
    x = torch.randn(3, 7, WIDTH, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), by_definition(mixer, x), rtol=1e-12, atol=1e-12)
    lengths = torch.tensor([7, 1, 4])
    mixed = mixer(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        want = by_definition(mixer, x[row : row + 1, :length])
        torch.testing.assert_close(mixed[row : row + 1, :length], want, rtol=1e-12, atol=1e-12)


def test_what_reads_later_tokens_does_not_decode() -> None:
    mixer = HSM(WIDTH, shifts=(-1, 1), causal=False)
    with pytest.raises(TypeError, match="not causal"):
        mixer.initial_state(1, 4)
    with pytest.raises(TypeError, match="not causal"):
        mixer.forward_cached(torch.zeros(1, 1, WIDTH), {}, torch.tensor([0]), torch.tensor([1]))


def test_one_token(generator: torch.Generator) -> None:
    mixer = make("vector", (4,), "learned", generator)
    x = torch.randn(2, 1, WIDTH, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), by_definition(mixer, x))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_receptive_field_is_one_plus_the_sum_of_shifts(mixing: str, generator: torch.Generator) -> None:
    layers = [HSM(WIDTH, shifts=(2**i,), mixing=mixing) for i in range(5)]
    stack = randomise(nn.Sequential(*layers).double(), generator)
    x = torch.randn(1, 40, WIDTH, generator=generator, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3] += 1
    difference = (stack(changed) - stack(x)).detach().abs().amax(dim=(0, 2))
    assert float(difference[3 + 31]) > 0
    assert float(difference[3 + 32 :].max()) == 0
    assert float(difference[:3].max()) == 0


def test_the_scalar_mixing_has_one_pair_of_weights_per_shift() -> None:
    mixer = HSM(WIDTH, shifts=(1, 2), mixing="scalar")
    assert {name: tuple(p.shape) for name, p in mixer.named_parameters()} == {"mixing.alpha": (2,), "mixing.beta": (2,)}


def test_the_ring_belongs_to_the_caller(generator: torch.Generator) -> None:
    mixer = make("vector", (2,), "zero", generator)
    state = mixer.initial_state(1, 8)
    x = torch.randn(1, 3, WIDTH, generator=generator, dtype=torch.float64)
    mixer.forward_cached(x, state, torch.tensor([0]), torch.tensor([3]))
    assert float(state["ring"].abs().max()) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mixing", [*MIXINGS, "user"])
def test_half_precision_runs(mixing: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    mixer = make(mixing, (1, 2), "learned", generator).to(dtype)
    x = torch.randn(2, 5, WIDTH, generator=generator).to(dtype)
    y = mixer(x)
    stepped, state = mixer.forward_cached(x, mixer.initial_state(2, 5), torch.tensor([0, 0]), torch.tensor([5, 5]))
    assert y.dtype == stepped.dtype == state["ring"].dtype == dtype
    torch.testing.assert_close(y, stepped)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shifts": ()}, "shifts"),
        ({"shifts": (-1,)}, "shifts must be >= 0 when causal is true"),
        ({"shifts": (1, 2, 3, 4, 5)}, "equal groups"),
        ({"padding": "mirror"}, "padding"),
        ({"mixing": "blend"}, "mixing must be one of scalar"),
    ],
)
def test_refuses_what_makes_no_sense(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HSM(WIDTH, **arguments)  # type: ignore[arg-type]
