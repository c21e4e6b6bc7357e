"""Softmax attention: against torch's own, decoding, and no NaN where nothing is visible."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.models.decoding import decode, largest_difference, random_chunks, random_lengths
from tests.models.mixers.switch_head_oracle import rope

from hsm_models.mixers import SoftmaxAttention
from hsm_models.mixers.attention import attend_whole

WIDTH = 20


def make(generator: torch.Generator, **options: object) -> SoftmaxAttention:
    mixer = SoftmaxAttention(WIDTH, **options).double()  # type: ignore[arg-type]
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return mixer


@pytest.mark.parametrize("length", [1, 12])
@pytest.mark.parametrize(("heads", "head_dim"), [(4, None), (3, 8), (2, 5)])
@pytest.mark.parametrize("positions", ["rope", "none"])
def test_matches_torch(
    length: int, heads: int, head_dim: int | None, positions: str, generator: torch.Generator
) -> None:
    mixer = make(generator, heads=heads, head_dim=head_dim, positions=positions)
    x = torch.randn(2, length, WIDTH, generator=generator, dtype=torch.float64)
    q, k, v = mixer.qkv(x).detach().unflatten(-1, (3, heads, mixer.head_dim)).permute(2, 0, 3, 1, 4)
    if positions == "rope":
        for tensor in (q, k):
            for t in range(length):
                for b in range(2):
                    for h in range(heads):
                        turned = rope(tensor[b, h, t].numpy(), t, mixer.head_dim // 2 * 2, 10000.0)
                        tensor[b, h, t] = torch.from_numpy(turned)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(mixer(x), mixer.proj(attended.transpose(1, 2).flatten(2)), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("positions", ["rope", "none"])
def test_decoding_is_the_full_pass(positions: str, generator: torch.Generator) -> None:
    mixer = make(generator, heads=4, positions=positions)
    x = torch.randn(3, 11, WIDTH, generator=generator, dtype=torch.float64)
    chunks = random_chunks(random_lengths(3, 11, generator), generator)
    rows = decode(mixer.forward_cached, mixer.initial_state(3, 11), x, chunks)
    assert largest_difference(rows, mixer(x)) <= 1e-12


def test_a_full_cache_refuses_more_tokens(generator: torch.Generator) -> None:
    mixer = make(generator, heads=4)
    x = torch.randn(1, 2, WIDTH, generator=generator, dtype=torch.float64)
    with pytest.raises(ValueError, match="holds 1 tokens"):
        mixer.forward_cached(x, mixer.initial_state(1, 1), torch.tensor([0]), torch.tensor([2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_query_that_sees_nothing_gives_no_nan(dtype: torch.dtype, generator: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 3, 2, 4, generator=generator).to(dtype) for _ in range(3))
    y = attend_whole(q, k, v, torch.tensor([0]), causal=False)
    assert y.dtype == dtype
    assert bool(torch.isfinite(y).all())


def test_refuses_unknown_positions() -> None:
    with pytest.raises(ValueError, match="positions"):
        SoftmaxAttention(WIDTH, positions="xl")
