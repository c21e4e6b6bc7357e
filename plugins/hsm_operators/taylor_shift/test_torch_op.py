"""TaylorShift in PyTorch: equal forms, output norms, masks, refused arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hsm_operators.taylor_shift import oracle
from hsm_operators.taylor_shift.torch_op import (
    feature_count,
    features,
    taylor_shift,
    taylor_shift_masked,
    weighted_features,
)

pytestmark = pytest.mark.usefixtures("reference_maths")


def _attention(
    generator: torch.Generator, *shape: int, value_width: int | None = None, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    """Return q, k (B,T,H,d), v (B,T,H,e), where e = d unless given, and temperatures (H,) away from 1."""
    shapes = (shape, shape, (*shape[:3], value_width or shape[3]))
    q, k, v = (torch.randn(own, generator=generator, dtype=torch.float64).to(dtype) for own in shapes)
    return q, k, v, (0.5 + 2 * torch.rand(shape[2], generator=generator, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str)
@pytest.mark.parametrize("output_norm", [False, True])
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize(
    ("width", "value_width", "crossover"), [(4, 4, 21), (7, 7, 57), (8, 8, 73), (4, 8, 28), (7, 3, 34)]
)
def test_the_forms_are_equal_at_the_crossover(
    width: int,
    value_width: int,
    crossover: int,
    extra: int,
    output_norm: bool,
    dtype: torch.dtype,
    tolerance: float,
    generator: torch.Generator,
) -> None:
    """Acceptance of the paper's two forms, at N0 tokens (d² + d + 1 where values are as wide as keys) and one more."""
    arguments = _attention(generator, 2, crossover + extra, 3, width, value_width=value_width, dtype=dtype)
    direct, efficient, auto = (
        taylor_shift(*arguments, True, output_norm, form) for form in ("direct", "efficient", "auto")
    )
    scale = float(direct.abs().max())
    assert (direct - efficient).abs().max() <= tolerance * max(scale, 1)
    assert torch.equal(auto, efficient if extra else direct)
    truth = oracle.taylor_shift(*(a.double().numpy() for a in arguments), 1, int(output_norm))
    assert np.abs(direct.double().numpy() - truth).max() <= tolerance * max(scale, 1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 3), st.integers(1, 6)),
    st.integers(1, 6),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["auto", "direct", "efficient"]),
    st.integers(0, 2**31),
)
def test_any_shape(
    shape: tuple[int, ...], value_width: int, normalize: bool, output_norm: bool, form: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    arguments = _attention(generator, *shape, value_width=value_width)
    lengths = torch.randint(1, shape[1] + 1, (shape[0],), generator=generator)
    arrays = [a.numpy() for a in arguments]
    y = taylor_shift(*arguments, normalize, output_norm, form)
    np.testing.assert_allclose(y, oracle.taylor_shift(*arrays, normalize, output_norm), rtol=1e-9, atol=1e-9)
    masked = taylor_shift_masked(*arguments, lengths, normalize, output_norm, form)
    truth = oracle.taylor_shift_masked(*arrays, lengths.numpy(), normalize, output_norm)
    specified = ~np.isnan(truth)
    np.testing.assert_allclose(masked.numpy()[specified], truth[specified], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [1, 2, 5, 8])
def test_features_multiply_to_the_polynomial(width: int, generator: torch.Generator) -> None:
    q, k = torch.randn((2, 10, width), generator=generator, dtype=torch.float64)
    t = (q * k).sum(-1)
    assert features(k).shape == (10, feature_count(width))
    torch.testing.assert_close((weighted_features(q) * features(k)).sum(-1), 1 + t + t**2 / 2)


def test_the_packed_order_is_the_documented_one() -> None:
    k = torch.tensor([2.0, 3.0, 5.0, 7.0])
    assert features(k).tolist() == [1, 2, 3, 5, 7, 4, 9, 25, 49, 6, 15, 35, 14, 10, 21]


@pytest.mark.parametrize("form", ["direct", "efficient"])
@pytest.mark.parametrize("magnitude", [0.0, 6e-8, 1e-4, 1e4, 6e4])
def test_tiny_and_huge_half_precision_vectors(magnitude: float, form: str, generator: torch.Generator) -> None:
    q, k, v, temperature = _attention(generator, 1, 20, 2, 4, dtype=torch.float16)
    q, k = q.sign() * magnitude, k.sign() * magnitude
    truth = oracle.taylor_shift(*(a.double().numpy() for a in (q, k, v, temperature)), 1, 0)
    y = taylor_shift(q, k, v, temperature, True, False, form).double().numpy()
    assert np.abs(y - truth).max() <= 4 * torch.finfo(torch.float16).eps * np.abs(truth).max()


def test_the_gradient_of_a_zero_vector_is_finite() -> None:
    q = torch.zeros((1, 3, 1, 2), requires_grad=True)
    taylor_shift(q, q, torch.ones(1, 3, 1, 2), torch.ones(1), True, False).sum().backward()
    assert q.grad is not None and bool(q.grad.isfinite().all())


@pytest.mark.parametrize("form", ["direct", "efficient"])
def test_padding_is_never_read(form: str, generator: torch.Generator) -> None:
    arguments = _attention(generator, 2, 6, 2, 3)
    lengths = torch.tensor([2, 6])
    clean = taylor_shift_masked(*arguments, lengths, True, True, form)
    for tensor in arguments[:3]:
        tensor[0, 2:] = torch.nan
    poisoned = taylor_shift_masked(*arguments, lengths, True, True, form)
    assert torch.equal(poisoned[0, :2], clean[0, :2])
    assert torch.equal(poisoned[1], clean[1])


Q, TAU = torch.zeros(2, 5, 3, 4), torch.ones(3)
ROW = torch.ones(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": Q[0]}, "q must be"),
        ({"k": Q[:, :4]}, "k must be"),
        ({"v": Q.half()}, "v must be"),
        ({"v": Q[:, :, :2]}, "v must be"),
        ({"v": Q[..., :0]}, "v must be"),
        ({"temperature": torch.ones(4)}, "temperature"),
        ({"lengths": ROW.int()}, "lengths"),
        ({"lengths": ROW[:1]}, "lengths"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"q": Q, "k": Q, "v": Q, "temperature": TAU, "lengths": ROW, "normalize": True}
    good["output_norm"] = True
    taylor_shift_masked(**good)
    with pytest.raises(ValueError, match=message):
        taylor_shift_masked(**good | changes)


def test_refuses_an_unknown_form() -> None:
    with pytest.raises(ValueError, match="form must be one of auto, direct, efficient"):
        taylor_shift(Q, Q, Q, TAU, True, True, "fast")
