"""Optimisation profiles: what the flags mean, what is refused, and the defaults."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_export.building.profiles import input_shapes, resolve_profiles
from hsm_export.errors import UsageError
from hsm_export.formats.profile import Range, parse_profile, parse_range
from hsm_export.formats.tensor import Tensor
from hsm_export.onnx_model.model_file import FileFacts


def source(max_length: int | None = None, *shapes: tuple[int | str, ...]) -> FileFacts:
    inputs = tuple(Tensor(f"input{index}", "int64", shape) for index, shape in enumerate(shapes))
    return FileFacts(
        path=Path("model.onnx"), sha256="", inputs=inputs, outputs=(), precision="fp32", max_length=max_length
    )


@given(st.tuples(*[st.integers(1, 2**20)] * 3).map(sorted))
def test_every_spelling_of_a_range_means_the_same(sizes: list[int]) -> None:
    expected = Range(*sizes)
    assert parse_range(":".join(map(str, sizes))) == parse_range(tuple(sizes)) == parse_range(expected) == expected
    assert parse_range(sizes[0]) == parse_range(str(sizes[0])) == Range(sizes[0], sizes[0], sizes[0])


@pytest.mark.parametrize(
    "text", ["", "x", "1:2", "1:2:3:4", "0", "-1", "1:0:4", "4:2:8", "8:16:4", "1:2:2147483648", "1.5"]
)
def test_sizes_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="length"):
        parse_range(text, "length")


def test_a_profile_names_its_dimensions() -> None:
    assert parse_profile("batch=1, length=1:512:4096") == {"batch": Range(1, 1, 1), "length": Range(1, 512, 4096)}


@pytest.mark.parametrize("text", ["batch", "batch=", "=4", "batch=1,batch=2", "batch=1,,length=2"])
def test_malformed_profiles_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_profile(text)


@pytest.mark.parametrize(
    ("max_length", "expected"), [(None, (1, 512, 4096)), (256, (1, 256, 256)), (1, (1, 1, 1)), (9000, (1, 512, 4096))]
)
def test_default_lengths_respect_the_model(max_length: int | None, expected: tuple[int, int, int]) -> None:
    (profile,) = resolve_profiles(source(max_length, ("batch", "length")), [])
    assert profile == {"batch": Range(1, 1, 8), "length": Range(*expected)}


def test_a_length_beyond_the_positions_is_refused_with_one_that_fits() -> None:
    model = source(128, ("batch", "length"))
    assert resolve_profiles(model, [{"length": "1:64:128"}])[0]["length"] == Range(1, 64, 128)
    with pytest.raises(UsageError, match="128 tokens") as caught:
        resolve_profiles(model, [{"length": "1:64:129"}])
    assert caught.value.hint == "use --length 1:64:128"


def test_unknown_dimensions_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'width'; its dynamic dimensions are batch, length"):
        resolve_profiles(source(None, ("batch", "length")), [{"width": 3}])
    with pytest.raises(UsageError, match="all its shapes are fixed"):
        resolve_profiles(source(None, (1, 8)), [{"batch": 1}])


def test_a_dimension_of_the_users_own_has_no_default() -> None:
    model = source(None, ("batch", "height"))
    with pytest.raises(UsageError, match="height") as caught:
        resolve_profiles(model, [{}])
    assert "--profile height=" in str(caught.value.hint)
    assert resolve_profiles(model, [{"height": 8}]) == ({"batch": Range(1, 1, 8), "height": Range(8, 8, 8)},)


def test_shapes_of_every_dynamic_input() -> None:
    model = source(None, ("batch", "length"), ("batch",), (3, 4))
    (profile,) = resolve_profiles(model, [{"batch": "1:2:4", "length": "1:8:16"}])
    assert input_shapes(model, profile) == {"input0": ((1, 1), (2, 8), (4, 16)), "input1": ((1,), (2,), (4,))}


def test_a_fixed_model_needs_no_profile() -> None:
    assert resolve_profiles(source(None, (1, 8)), []) == ()


def decoding(max_length: int | None = None) -> FileFacts:
    model = source(max_length, ("batch", "length"), ("batch",), ("batch", "capacity", 4, 8))
    return dataclasses.replace(model, metadata={"decode": "1"})


def test_a_decoding_file_gets_a_profile_for_steps_and_one_for_prompts() -> None:
    expected = [
        {"batch": Range(1, 1, 8), "length": Range(1, 1, 1), "capacity": Range(1, 2048, 4096)},
        {"batch": Range(1, 1, 8), "length": Range(1, 512, 4096), "capacity": Range(1, 2048, 4096)},
    ]
    assert list(resolve_profiles(decoding(), [])) == expected
    for_four = resolve_profiles(decoding(), [{"batch": 4, "capacity": 100}])
    assert [str(profile["length"]) for profile in for_four] == ["1", "1:512:4096"]
    assert all((str(profile["batch"]), str(profile["capacity"])) == ("4", "100") for profile in for_four)
    assert [str(profile["length"]) for profile in resolve_profiles(decoding(64), [])] == ["1", "1:64:64"]


def test_given_lengths_are_the_profiles() -> None:
    (profile,) = resolve_profiles(decoding(), [{"length": "1:8:16"}])
    assert str(profile["length"]) == "1:8:16"
    assert len(resolve_profiles(decoding(), [{"length": 1}, {"length": 32}, {"batch": 2}])) == 3
    with pytest.raises(UsageError, match="capacity"):
        resolve_profiles(source(None, ("batch", "capacity")), [])
