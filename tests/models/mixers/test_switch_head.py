"""SwitchHead: every position scheme and special case against NumPy, and decoding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.models.decoding import decode, largest_difference, random_chunks, random_lengths
from tests.models.mixers import switch_head_oracle as oracle

from hsm_models.mixers import SwitchHead

WIDTH, HEADS, HEAD_DIM = 14, 2, 6
POSITIONS = ("rope", "xl", "none")
VARIANTS = [(4, 2, False), (4, 2, True), (3, 3, False), (5, 1, False), (1, 1, False), (1, 1, True)]


def make(generator: torch.Generator, **options: object) -> SwitchHead:
    mixer = SwitchHead(WIDTH, heads=HEADS, head_dim=HEAD_DIM, **options).double()  # type: ignore[arg-type]
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return mixer


def expected(mixer: SwitchHead, x: torch.Tensor, active: int) -> npt.NDArray[np.float64]:
    weights = {name: value.numpy() for name, value in mixer.state_dict().items()}
    experts = mixer.value.weight.shape[1]
    source = weights["source.weight"].reshape(HEADS, experts, WIDTH)
    destination = weights.get("destination.weight", weights["source.weight"]).reshape(HEADS, experts, WIDTH)
    position = weights["position.weight"].reshape(HEADS, HEAD_DIM, WIDTH) if "position.weight" in weights else None
    return np.stack(
        [
            oracle.switch_head(
                row,
                weights["query.weight"].reshape(HEADS, HEAD_DIM, WIDTH),
                weights["key.weight"].reshape(HEADS, HEAD_DIM, WIDTH),
                weights["value.weight"],
                weights["output.weight"],
                source,
                destination,
                active,
                rotary=mixer.rotary_channels if mixer.positions == "rope" else 0,
                position=position,
            )
            for row in x.numpy()
        ]
    )


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(("experts", "active", "same_selection"), [v for v in VARIANTS if v[0] > 1])
def test_matches_numpy(
    length: int, positions: str, experts: int, active: int, same_selection: bool, generator: torch.Generator
) -> None:
    options = {"experts": experts, "active": active, "positions": positions, "same_selection": same_selection}
    mixer = make(generator, **options)
    x = torch.randn(2, length, WIDTH, generator=generator, dtype=torch.float64)
    want = expected(mixer, x, active)
    np.testing.assert_allclose(mixer(x).detach().numpy(), want, rtol=1e-11, atol=1e-12)
    single = mixer.float()(x.float()).detach().numpy()
    assert np.abs(single - want).max() <= 1e-6 * max(1.0, np.abs(want).max())


def test_one_expert_is_dense_with_a_gate_per_head(generator: torch.Generator) -> None:
    mixer = make(generator, experts=1, active=1)
    x = torch.randn(2, 9, WIDTH, generator=generator, dtype=torch.float64)
    query, key, value = (
        getattr(mixer, name).weight.detach().numpy().reshape(HEADS, HEAD_DIM, WIDTH)
        for name in ("query", "key", "value")
    )
    output = mixer.output.weight.detach().numpy().T.reshape(HEADS, HEAD_DIM, WIDTH)
    gate = mixer.destination.weight.detach().numpy()
    want = [oracle.switch_head_dense(row, query, key, value, output, gate, mixer.rotary_channels) for row in x.numpy()]
    np.testing.assert_allclose(mixer(x).detach().numpy(), np.stack(want), rtol=1e-11, atol=1e-12)


def test_all_experts_active_is_the_dense_mixture(generator: torch.Generator) -> None:
    mixer = make(generator, experts=3, active=3, positions="none")
    x = torch.randn(1, 8, WIDTH, generator=generator, dtype=torch.float64)
    source = torch.sigmoid(mixer.source(x))
    v = torch.einsum("bthe,btd,hedf->bthf", source, x, mixer.value.weight)
    q, k = (linear(x).unflatten(-1, (HEADS, HEAD_DIM)) for linear in (mixer.query, mixer.key))
    scores = torch.einsum("bihf,bjhf->bhij", q, k) / HEAD_DIM**0.5
    weights = scores.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf).softmax(-1)
    attended = torch.einsum("bhij,bjhf->bihf", weights, v)
    want = torch.einsum("bthe,bthf,hefd->btd", torch.sigmoid(mixer.destination(x)), attended, mixer.output.weight)
    torch.testing.assert_close(mixer(x), want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(("experts", "active", "same_selection"), VARIANTS)
def test_decoding_is_the_full_pass(
    positions: str, experts: int, active: int, same_selection: bool, generator: torch.Generator
) -> None:
    options = {"experts": experts, "active": active, "positions": positions, "same_selection": same_selection}
    mixer = make(generator, **options)
    x = torch.randn(3, 11, WIDTH, generator=generator, dtype=torch.float64)
    chunks = random_chunks(random_lengths(3, 11, generator), generator)
    rows = decode(mixer.forward_cached, mixer.initial_state(3, 13), x, chunks)
    assert largest_difference(rows, mixer(x)) <= 1e-12


def test_the_future_has_no_effect(generator: torch.Generator) -> None:
    for positions in POSITIONS:
        mixer = make(generator, positions=positions)
        x = torch.randn(1, 9, WIDTH, generator=generator, dtype=torch.float64)
        changed = x.clone()
        changed[:, 5:] = 100
        torch.testing.assert_close(mixer(changed)[:, :5], mixer(x)[:, :5], rtol=1e-13, atol=1e-14)


def test_a_full_cache_refuses_more_tokens(generator: torch.Generator) -> None:
    mixer = make(generator)
    x = torch.randn(2, 3, WIDTH, generator=generator, dtype=torch.float64)
    with pytest.raises(ValueError, match="holds 4 tokens, but a row reaches 5"):
        mixer.forward_cached(x, mixer.initial_state(2, 4), torch.tensor([0, 2]), torch.tensor([3, 3]))
    mixer.forward_cached(x, mixer.initial_state(2, 4), torch.tensor([0, 2]), torch.tensor([3, 2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("experts", [1, 4])
def test_half_precision_runs_and_routes_in_float32(
    dtype: torch.dtype, positions: str, experts: int, generator: torch.Generator
) -> None:
    mixer = make(generator, experts=experts, active=1, positions=positions).to(dtype)
    x = torch.randn(2, 40, WIDTH, generator=generator).to(dtype)
    y = mixer(x)
    assert y.dtype == dtype
    assert bool(torch.isfinite(y).all())
    assert mixer.destination(x).dtype == torch.float32


def test_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="active 5"):
        SwitchHead(WIDTH, heads=2, experts=4, active=5)
    with pytest.raises(ValueError, match="positions"):
        SwitchHead(WIDTH, heads=2, positions="alibi")
    with pytest.raises(ValueError, match="give head_dim"):
        SwitchHead(WIDTH, heads=3)
