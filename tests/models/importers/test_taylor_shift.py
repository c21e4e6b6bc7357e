"""TaylorShift's layout: our imported model against an independent formula over the authors' own weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.importers import authors

from hsm_models import TaylorShiftConfig
from hsm_models.checkpoint import build_model
from hsm_models.errors import CheckpointError
from hsm_models.importers import ImportOptions, OptionError, convert, to_authors_layout
from hsm_models.importers.state_file import StateFile

VARIANTS: dict[str, tuple[dict[str, Any], ImportOptions]] = {
    "plain": ({}, ImportOptions()),
    "without output norm": ({}, ImportOptions(output_norm=False)),
    "layer scale": ({"layer_scale": True}, ImportOptions()),
    "no qkv bias": ({"qkv_bias": False}, ImportOptions()),
    "one layer of one head": ({"layers": 1, "heads": 1}, ImportOptions()),
    "pixels": ({"vocabulary": 256}, ImportOptions(input="pixels")),
    "package, not normalised": ({"normalize": False}, ImportOptions(heads=4, query_scale="package")),
    "training, not normalised": (
        {"normalize": False},
        ImportOptions(heads=4, query_scale="training", output_norm=True),
    ),
    "not normalised, no qkv bias": (
        {"normalize": False, "qkv_bias": False},
        ImportOptions(heads=2, query_scale="training", output_norm=False),
    ),
    "relu": ({}, ImportOptions(activation="relu")),
    "silu": ({}, ImportOptions(activation="silu")),
    "another epsilon": ({}, ImportOptions(norm_eps=1e-3)),
    "mean of the tokens": ({}, ImportOptions(pooling="avg")),
    "a position of CLS": ({"max_length": 41}, ImportOptions(cls_position=True)),
    "vision": ({"image": (12, 4, 3)}, ImportOptions()),
    "vision, positions with a row for CLS": ({"image": (12, 4, 3), "class_row": True}, ImportOptions()),
    "vision, one channel, layer scale": ({"image": (8, 2, 1), "layer_scale": True}, ImportOptions(output_norm=False)),
}

# Of float32 through a few layers; how much it is depends on the processor. What float64 gives decides.
ROUNDING = 64 * np.finfo(np.float32).eps


def query_factor(options: ImportOptions, width: int, heads: int) -> float:
    """The factor that the authors' code would put on un-normalised queries."""
    factors = {None: 1.0, "package": width**-0.5, "training": (width / heads) ** 0.25}
    return factors[options.query_scale]


@pytest.mark.parametrize("length", [1, 2, 21, 22, 40])
@pytest.mark.parametrize("variant", VARIANTS)
def test_imported_model_equals_the_authors_formula(variant: str, length: int, generator: torch.Generator) -> None:
    geometry, options = VARIANTS[variant]
    heads = options.heads or geometry.get("heads", 4)
    state = authors.taylor_shift_state(generator, **geometry)
    imported = convert(StateFile(dict(state)), "taylor-shift", options)
    model = build_model(imported.config).eval()
    model.load_state_dict(imported.weights)

    if "image" in geometry:
        size, _, channels = geometry["image"]
        inputs = torch.randn(3, channels, size, size, generator=generator)
    else:
        inputs = torch.randint(geometry.get("vocabulary", 11), (3, length), generator=generator)
    expected = authors.taylor_shift_logits(
        state,
        inputs.double().numpy() if "image" in geometry else inputs.numpy(),
        heads=heads,
        output_norm=options.output_norm is not False,
        query_factor=query_factor(options, 16, heads),
        activation=options.activation or "gelu",
        norm_eps=options.norm_eps or 1e-6,
        pooling=options.pooling or "token",
        cls_position=bool(options.cls_position),
    )
    scale = max(1.0, np.abs(expected).max())
    precise = convert(StateFile({name: tensor.double() for name, tensor in state.items()}), "taylor-shift", options)
    with torch.no_grad():
        assert np.abs(model(inputs).numpy() - expected).max() <= ROUNDING * scale
        double = model.double()
        double.load_state_dict(precise.weights)
        inputs = inputs.double() if "image" in geometry else inputs
        assert np.abs(double(inputs).numpy() - expected).max() <= 1e-10 * scale


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_map_both_ways(variant: str, generator: torch.Generator) -> None:
    geometry, options = VARIANTS[variant]
    state = authors.taylor_shift_state(generator, **geometry)
    imported = convert(StateFile(dict(state)), "taylor-shift", options)
    theirs = to_authors_layout(imported.weights, imported.config, "taylor-shift", query_scale=options.query_scale)
    # Positions go back without a row for the CLS token, whose position is added to the token itself.
    again = convert(StateFile(theirs), "taylor-shift", dataclasses.replace(options, cls_position=None))
    assert again.config == imported.config and again.names == imported.names
    moved = {"cls_token", "position_embedding"} if options.cls_position else set()
    for name, tensor in imported.weights.items():
        if name in moved:
            continue
        torch.testing.assert_close(again.weights[name], tensor, rtol=1e-6, atol=0, msg=name)
    unchanged = set(state) - {"cls_token", "pos_embed", "pe"} - {name for name in state if "qkv" in name}
    assert unchanged <= set(theirs)
    assert all(torch.equal(theirs[name], state[name]) for name in unchanged)


def test_positions_of_a_trained_cls_row_survive_the_way_back(generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    imported = convert(StateFile(dict(state)), "taylor-shift")
    imported.weights["position_embedding"][0] = torch.randn(16, generator=generator)
    theirs = to_authors_layout(imported.weights, imported.config, "taylor-shift")
    tokens = torch.randint(11, (2, 9), generator=generator)
    model = build_model(imported.config).eval()
    model.load_state_dict(imported.weights)
    expected = authors.taylor_shift_logits(theirs, tokens.numpy(), heads=4)
    np.testing.assert_allclose(model(tokens).detach().numpy(), expected, atol=ROUNDING * np.abs(expected).max())


def test_sizes_are_read_off_the_shapes(generator: torch.Generator) -> None:
    config = convert(StateFile(authors.taylor_shift_state(generator, layers=3)), "taylor-shift").config
    mixer = config.layers[0].mixer
    assert isinstance(mixer, TaylorShiftConfig)
    assert (config.width, len(config.layers), mixer.heads, config.classes) == (16, 3, 4, 5)
    assert (config.vocab_size, config.max_length, config.norm_eps) == (11, 40, 1e-6)
    image = convert(StateFile(authors.taylor_shift_state(generator, image=(12, 4, 3))), "taylor-shift").config.image
    assert image is not None and (image.size, image.patch, image.channels) == (12, 4, 3)


def test_old_classifiers_inside_a_sequential(generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    old = {name.replace("head.", "head.0."): tensor for name, tensor in state.items()}
    assert torch.equal(convert(StateFile(old), "taylor-shift").weights["output.weight"], state["head.weight"])


@pytest.mark.parametrize("name", ["blocks.1.attn.proj.bias", "blocks.0.mlp.fc2.weight", "head.bias", "cls_token"])
def test_missing_names_are_listed(name: str, generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    del state[name]
    with pytest.raises(CheckpointError, match=f"missing: {name}"):
        convert(StateFile(state), "taylor-shift")


def test_a_single_missing_qkv_bias_is_not_taken_for_a_model_without(generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    del state["blocks.1.attn.qkv.bias"]
    with pytest.raises(CheckpointError, match=r"missing: blocks.1.attn.qkv.bias"):
        convert(StateFile(state), "taylor-shift")


def test_left_over_names_and_wrong_shapes_are_all_listed(generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    state |= {"fc.weight": torch.ones(16), "blocks.7.norm1.weight": torch.ones(16)}
    state["blocks.1.norm1.weight"] = torch.ones(15)
    with pytest.raises(CheckpointError) as caught:
        convert(StateFile(state), "taylor-shift")
    text = str(caught.value)
    assert "left over: blocks.7.norm1.weight, fc.weight" in text
    assert "blocks.2.norm1.weight" in text and "wrong shape: blocks.1.norm1.weight (15,) instead of (16,)" in text


@pytest.mark.parametrize(
    ("geometry", "options", "message"),
    [
        ({"normalize": False}, ImportOptions(query_scale="package"), "give heads"),
        ({"normalize": False}, ImportOptions(heads=4), "give query_scale"),
        ({}, ImportOptions(heads=2), "heads is 2, but the file's temperatures are those of 4 heads"),
    ],
)
def test_options_that_are_missing_or_contradict_the_file(
    geometry: dict[str, Any], options: ImportOptions, message: str, generator: torch.Generator
) -> None:
    state = authors.taylor_shift_state(generator, **geometry)
    with pytest.raises(OptionError, match=message):
        convert(StateFile(state), "taylor-shift", options)


@pytest.mark.parametrize("preset", ["listops", "imdb", "cifar", "pathfinder", "vit-ti"])
def test_presets_fit_the_published_sizes_and_refuse_others(preset: str, generator: torch.Generator) -> None:
    sizes: dict[str, dict[str, Any]] = {
        "listops": {"width": 512, "layers": 4, "heads": 8, "hidden": 1024},
        "imdb": {"width": 256, "layers": 4, "heads": 4, "hidden": 1024},
        "cifar": {"width": 256, "layers": 1, "heads": 4, "hidden": 256},
        "pathfinder": {"width": 64, "layers": 4, "heads": 4, "hidden": 64},
        "vit-ti": {"width": 192, "layers": 12, "heads": 3, "hidden": 768, "image": (32, 16, 3)},
    }
    fitting = authors.taylor_shift_state(generator, **sizes[preset])
    config = convert(StateFile(fitting), "taylor-shift", preset=preset).config
    assert config.input == (
        "image" if preset == "vit-ti" else "pixels" if preset in ("cifar", "pathfinder") else "tokens"
    )
    other = authors.taylor_shift_state(generator, heads=sizes[preset]["heads"], width=24 * sizes[preset]["heads"])
    with pytest.raises(OptionError, match=f"not the preset {preset}: it has width"):
        convert(StateFile(other), "taylor-shift", preset=preset)
