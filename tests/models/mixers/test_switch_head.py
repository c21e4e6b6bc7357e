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


Arrays = npt.NDArray[np.float64]


def one_row(mixer: SwitchHead, active: int, x: Arrays, sources: tuple[Arrays, Arrays] | None = None) -> Arrays:
    """The oracle's answer for one sequence (T,D), and for the keys' and values' sequences (S,D)."""
    weights = {name: value.numpy() for name, value in mixer.state_dict().items()}
    query, key, position = (
        weights[name].reshape(HEADS, HEAD_DIM, WIDTH) if name in weights else None
        for name in ("query.weight", "key.weight", "position.weight")
    )
    rotary = mixer.rotary_channels if mixer.positions == "rope" else 0
    value, output = weights["value.weight"], weights["output.weight"]
    if mixer.source is None:
        value, output = value.reshape(HEADS, HEAD_DIM, WIDTH), output.T.reshape(HEADS, HEAD_DIM, WIDTH)
        gate = weights["destination.weight"]
        return oracle.switch_head_dense(x, query, key, value, output, gate, rotary, sources=sources)
    source = weights["source.weight"].reshape(HEADS, -1, WIDTH)
    destination = weights.get("destination.weight", weights["source.weight"]).reshape(HEADS, -1, WIDTH)
    return oracle.switch_head(
        x, query, key, value, output, source, destination, active, rotary, position=position, sources=sources
    )


def expected(mixer: SwitchHead, x: torch.Tensor, active: int) -> Arrays:
    return np.stack([one_row(mixer, active, row) for row in x.numpy()])


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
    np.testing.assert_allclose(mixer(x).detach().numpy(), expected(mixer, x, 1), rtol=1e-11, atol=1e-12)


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


# Dense with XL positions is left to `test_decoding_is_the_full_pass`: the dense oracle knows rotations only.
CROSSED = [(p, v) for p in POSITIONS for v in VARIANTS if (p, v[0]) != ("xl", 1)]


@pytest.mark.parametrize("sizes", [(1, 1), (5, 1), (1, 6), (4, 9), (9, 4)])
@pytest.mark.parametrize(("positions", "variant"), CROSSED)
def test_other_sequences_give_keys_and_values(
    sizes: tuple[int, int], positions: str, variant: tuple[int, int, bool], generator: torch.Generator
) -> None:
    (experts, active, same), (length, keys) = variant, sizes
    mixer = make(generator, experts=experts, active=active, positions=positions, same_selection=same, causal=False)
    x, key, value = (
        torch.randn(3, tokens, WIDTH, generator=generator, dtype=torch.float64) for tokens in (length, keys, keys)
    )
    lengths = random_lengths(3, keys, generator).clamp(min=1)
    for given, sources in (((None, None), (x, x)), ((key, None), (key, key)), ((key, value), (key, value))):
        for valid in (None, lengths.clamp(max=sources[0].shape[1])):
            got = mixer(x, valid, key=given[0], value=given[1]).detach().numpy()
            for row in range(3):
                end = None if valid is None else int(valid[row])
                want = one_row(mixer, active, x[row].numpy(), tuple(s[row, :end].numpy() for s in sources))
                np.testing.assert_allclose(got[row], want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("positions", POSITIONS)
def test_causal_attention_with_values_of_another_sequence(positions: str, generator: torch.Generator) -> None:
    """MoEUT's layers: queries and keys are normed, values are not."""
    mixer = make(generator, positions=positions)
    x, value = (torch.randn(2, 7, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(mixer(x, key=x.clone(), value=x), mixer(x), rtol=1e-12, atol=1e-13)
    mixed = mixer(x, value=value)
    changed = value.clone()
    changed[:, 4:] = 100
    torch.testing.assert_close(mixer(x, value=changed)[:, :4], mixed[:, :4], rtol=1e-12, atol=1e-13)
    assert float((mixer(x, value=changed)[:, 4:] - mixed[:, 4:]).detach().abs().amax(2).min()) > 0


def test_sequences_that_do_not_fit_are_refused(generator: torch.Generator) -> None:
    mixer, around = make(generator), make(generator, causal=False)
    x, longer = (torch.randn(1, tokens, WIDTH, generator=generator, dtype=torch.float64) for tokens in (3, 4))
    with pytest.raises(ValueError, match="as many keys as queries, got 4 and 3; set causal to false"):
        mixer(x, key=longer)
    with pytest.raises(ValueError, match="key has 3 tokens and value 4"):
        around(x, value=longer)
    with pytest.raises(ValueError, match="with a state, keys are made from x"):
        mixer(x, torch.tensor([3]), mixer.initial_state(1, 4), torch.tensor([0]), key=x)
    with pytest.raises(TypeError, match="not causal"):
        around.initial_state(1, 4)
    with pytest.raises(TypeError, match="not causal"):
        around(x, torch.tensor([3]), {}, torch.tensor([0]))


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
    with pytest.raises(ValueError, match="window has no meaning when causal is false"):
        SwitchHead(WIDTH, window=4, causal=False)
