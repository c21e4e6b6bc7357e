"""Whole numbers stand for what was rounded; GPTQ's products err less; packed blocks mean the same everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.exporter.quantisation.networks import VOCABULARY, language_model

from hsm_export.formats.quantisation_plan import Form
from hsm_export.quantisation.forms import bits_of
from hsm_export.quantisation.moments import Moments
from hsm_export.quantisation.rewriting import packed_blocks
from hsm_export.quantisation.rounding import best, gptq, nearest, product_error
from hsm_export.quantisation.weights import find_weights
from hsm_export.runtimes.contrib import block_table, nbits_weight

FORMS: tuple[tuple[Form, int], ...] = (("int8", 40), ("int8", 16), ("int4x32", 32), ("int4x64", 64))


def _matrix(rows: int = 24, depth: int = 40) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((rows, depth)).astype(np.float32)


def _moments(depth: int = 40) -> np.ndarray:
    """Return second moments of inputs of which some directions are far larger than others."""
    generator = np.random.default_rng(4)
    x = generator.standard_normal((300, 8)) @ generator.standard_normal((8, depth)) + generator.normal(
        0, 0.1, (300, depth)
    )
    return np.asarray(x.T @ x)


@pytest.mark.parametrize(("form", "block"), FORMS)
def test_every_number_is_within_its_step(form: Form, block: int) -> None:
    matrix = _matrix()
    codes = nearest(matrix, form, block)
    steps = np.repeat(codes.scales, block, axis=1)[:, : matrix.shape[1]]
    inside = np.abs(matrix) <= steps * ((1 << (bits_of(form) - 1)) - 1)
    assert np.all(np.abs(codes.matrix() - matrix)[inside] <= steps[inside] * 0.5001)
    assert inside.mean() > 0.9
    assert codes.scales.shape == (24, -(-40 // block))


@pytest.mark.parametrize("block", [32, 64])
def test_gptq_errs_less_in_products_than_the_nearest_steps(block: int) -> None:
    matrix, moments = _matrix(), _moments()
    form: Form = "int4x32" if block == 32 else "int4x64"
    plain, clever = nearest(matrix, form, block, np.diagonal(moments)), gptq(matrix, form, block, moments)
    assert product_error(matrix, clever, moments) < 0.7 * product_error(matrix, plain, moments)
    assert best(matrix, form, block, moments).rounding == "gptq"
    assert best(matrix, form, block, None).rounding == "nearest"


def test_a_weight_of_zeros_and_moments_without_an_inverse_are_rounded() -> None:
    zeros = np.zeros((4, 32), np.float32)
    assert not best(zeros, "int4x32", 32, np.zeros((32, 32))).matrix().any()
    assert np.isfinite(best(_matrix(4, 32), "int4x32", 32, np.full((32, 32), np.nan)).matrix()).all()


@pytest.mark.parametrize(("form", "block"), FORMS)
def test_packed_blocks_mean_what_the_operators_read(form: Form, block: int) -> None:
    if block == 40:
        pytest.skip("blocks of ONNX Runtime's operators are powers of two")
    codes = nearest(_matrix(), form, block)
    packed = packed_blocks(codes)
    found = nbits_weight(packed, codes.scales, K=40, N=24, bits=codes.bits, block_size=block)
    np.testing.assert_array_equal(found, codes.matrix())
    if 40 % block == 0:
        table = block_table(packed.reshape(24, -1), codes.scales, bits=codes.bits, block_size=block)
        np.testing.assert_array_equal(table, codes.matrix())


def test_moments_that_do_not_fit_together_are_measured_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(language_model(tmp_path / "lm.onnx"))
    weights = {weight.name: weight for weight in find_weights(model)[0]}
    feeds = [{"tokens": np.random.default_rng(seed).integers(0, VOCABULARY, (4, 8))} for seed in (1, 2)]
    together = Moments(model, weights, feeds, dict)
    monkeypatch.setattr("hsm_export.quantisation.moments._HELD_BYTES", 1)
    alone = Moments(model, weights, feeds, dict)
    for name in (*weights, *weights):
        second, squares = together.second(name), together.squares(name)
        assert second is not None and squares is not None
        np.testing.assert_allclose(np.diagonal(second), squares, rtol=1e-12)
        np.testing.assert_array_equal(alone.second(name), second)
