"""SwitchHead's layouts: our imported models against an independent formula over the authors' own weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.models.importers import authors

from hsm_models import MoEConfig, SwitchHeadConfig
from hsm_models.checkpoint import build_model
from hsm_models.errors import CheckpointError
from hsm_models.importers import ImportOptions, OptionError, convert, load_attention, to_authors_layout
from hsm_models.importers.state_file import StateFile
from hsm_models.importers.switch_head import PACKAGE, Naming

VARIANTS: dict[str, tuple[dict[str, Any], ImportOptions]] = {
    "rope": ({}, ImportOptions(active=2)),
    "rope of all channels, another base": ({}, ImportOptions(active=2, rope_fraction=1.0, rope_base=100.0)),
    "no positions": ({}, ImportOptions(active=1, positions="none")),
    "relative": ({"relative": True}, ImportOptions(active=2)),
    "all experts active": ({"experts": 4}, ImportOptions(active=4)),
    "one dense expert, rope": ({"experts": 1}, ImportOptions()),
    "one dense expert, relative": ({"experts": 1, "relative": True}, ImportOptions()),
    "same selection": ({"same_selection": True}, ImportOptions(active=2)),
    "SwitchAll, relative": (
        {"relative": True, "feed_forward_experts": 5},
        ImportOptions(active=2, feed_forward_active=3),
    ),
    "older training code": ({"outer": "layers"}, ImportOptions(active=2)),
    "package's names in a model": ({"package_names": True}, ImportOptions(active=2)),
    "SwitchAll with GELU": (
        {"feed_forward_experts": 5},
        ImportOptions(active=2, feed_forward_active=3, activation="gelu"),
    ),
    "another epsilon": ({}, ImportOptions(active=2, norm_eps=1e-3)),
    "a window longer than the text": ({"relative": True}, ImportOptions(active=2, window=17)),
    "tied embeddings": ({"tied": True}, ImportOptions(active=2)),
    "three heads wider than the model": ({"heads": 3, "head_dim": 8}, ImportOptions(active=2)),
}

# Of float32 through a few layers; how much it is depends on the processor. What float64 gives decides.
ROUNDING = 64 * np.finfo(np.float32).eps


def expected_logits(state: authors.State, tokens: torch.Tensor, heads: int, options: ImportOptions) -> np.ndarray:
    """Evaluate the independent formula with the options of a variant."""
    return authors.switch_head_logits(
        state,
        tokens.numpy(),
        heads=heads,
        active=options.active or 1,
        feed_forward_active=options.feed_forward_active or 0,
        rope_fraction=0.0 if options.positions == "none" else options.rope_fraction or 0.5,
        rope_base=options.rope_base or 10000.0,
        activation=options.activation or "relu",
        norm_eps=options.norm_eps or 1e-5,
    )


@pytest.mark.parametrize("length", [1, 2, 17])
@pytest.mark.parametrize("variant", VARIANTS)
def test_imported_model_equals_the_authors_formula(variant: str, length: int, generator: torch.Generator) -> None:
    geometry, options = VARIANTS[variant]
    state = authors.switch_head_state(generator, **geometry)
    imported = convert(StateFile(dict(state)), "switch-head", options)
    model = build_model(imported.config).eval()
    model.load_state_dict(imported.weights)
    tokens = torch.randint(13, (2, length), generator=generator)
    expected = expected_logits(state, tokens, geometry.get("heads", 2), options)
    scale = max(1.0, np.abs(expected).max())
    with torch.no_grad():
        assert np.abs(model(tokens).numpy() - expected).max() <= ROUNDING * scale
        assert np.abs(model.double()(tokens).numpy() - expected).max() <= 1e-10 * scale


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_map_both_ways(variant: str, generator: torch.Generator) -> None:
    geometry, options = VARIANTS[variant]
    state = authors.switch_head_state(generator, **geometry)
    imported = convert(StateFile(dict(state)), "switch-head", options)
    naming = Naming(geometry.get("outer", "unique_layers"))
    if geometry.get("package_names"):
        naming = Naming(attention=PACKAGE)
    theirs = to_authors_layout(imported.weights, imported.config, "switch-head", naming)
    weights = {name: tensor for name, tensor in state.items() if "kv_sel_counts" not in name}
    assert set(theirs) == set(weights)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("prefix", ["", "blocks.3.attention."])
@pytest.mark.parametrize("geometry", [{}, {"relative": True}, {"experts": 1}, {"experts": 1, "relative": True}])
def test_a_single_layer_of_the_package(geometry: dict[str, Any], prefix: str, generator: torch.Generator) -> None:
    experts = geometry.get("experts", 4)
    state = authors.attention_state(generator, 12, 2, 8, experts, relative=geometry.get("relative", False))
    prefixed = {prefix + name: tensor for name, tensor in state.items()}
    others = {"blocks.3.norm.weight": torch.ones(12)} if prefix else {}
    attention = load_attention(prefixed | others, ImportOptions(active=None if experts == 1 else 2), prefix)
    x = torch.randn(2, 9, 12, generator=generator)
    numpy_state = {name: tensor.double().numpy() for name, tensor in state.items()}
    expected = authors.attention_output(numpy_state, x.double().numpy(), 2, 2)
    with torch.no_grad():
        np.testing.assert_allclose(attention(x).numpy(), expected, rtol=0, atol=ROUNDING * np.abs(expected).max())
        doubled = attention.double()(x.double()).numpy()
    np.testing.assert_allclose(doubled, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_a_single_layer_is_no_model(generator: torch.Generator) -> None:
    state = authors.attention_state(generator, 12, 2, 8, 4)
    with pytest.raises(CheckpointError, match="load_attention"):
        convert(StateFile(state), "switch-head", ImportOptions(active=2))


def test_a_single_layer_must_be_complete(generator: torch.Generator) -> None:
    state = authors.attention_state(generator, 12, 2, 8, 4)
    with pytest.raises(CheckpointError, match="left over: bias"):
        load_attention(state | {"bias": torch.ones(3)}, ImportOptions(active=2))
    with pytest.raises(OptionError, match="give active"):
        load_attention(state)


def test_sizes_are_read_off_the_shapes(generator: torch.Generator) -> None:
    state = authors.switch_head_state(generator, heads=3, experts=5, layers=4, feed_forward_experts=6, relative=True)
    config = convert(StateFile(state), "switch-head", ImportOptions(active=2, feed_forward_active=3)).config
    mixer, feed_forward = config.layers[3].mixer, config.layers[3].feed_forward
    assert mixer == SwitchHeadConfig(heads=3, head_dim=8, experts=5, active=2, positions="xl")
    assert feed_forward == MoEConfig(experts=6, active=3, expert_width=8)
    assert (config.width, config.vocab_size, len(config.layers), config.norm_eps) == (16, 13, 4, 1e-5)


def test_options_stored_in_a_training_file_are_used(generator: torch.Generator) -> None:
    state = authors.switch_head_state(generator)
    arguments = {"moe.att.k": 3, "transformer.n_heads": 2, "rope.base": None, "moe.att.selection_mode": "sigmoid"}
    mixer = convert(StateFile(dict(state), arguments), "switch-head").config.layers[0].mixer
    assert isinstance(mixer, SwitchHeadConfig) and mixer.active == 3
    with pytest.raises(OptionError, match="active is 2 according to the options and 3 according to the file"):
        convert(StateFile(state, arguments), "switch-head", ImportOptions(active=2))


@pytest.mark.parametrize(
    "arguments",
    [
        {"moe.att.selection_mode": "softmax"},
        {"transformer.variant": "moe"},
        {"transformer.activation": "topk"},
        {"moe.sel_norm": "cos"},
    ],
)
def test_training_options_without_an_equivalent_are_refused(
    arguments: dict[str, Any], generator: torch.Generator
) -> None:
    state = authors.switch_head_state(generator)
    with pytest.raises(CheckpointError, match=next(iter(arguments))):
        convert(StateFile(state, arguments), "switch-head", ImportOptions(active=2))


@pytest.mark.parametrize(
    "name", ["unique_layers.1.self_attn.selections.o", "unique_layers.0.norm2.bias", "out_norm.weight"]
)
def test_missing_names_are_listed(name: str, generator: torch.Generator) -> None:
    state = authors.switch_head_state(generator)
    del state[name]
    with pytest.raises(CheckpointError, match=f"missing: {name}"):
        convert(StateFile(state), "switch-head", ImportOptions(active=2))


def test_left_over_names_are_listed(generator: torch.Generator) -> None:
    state = authors.switch_head_state(generator)
    state |= {"adapter.weight": torch.ones(2), "unique_layers.1.self_attn.norm_ret.weight": torch.ones(8)}
    with pytest.raises(
        CheckpointError,
        match=r"left over: adapter.weight, unique_layers.1.self_attn.norm_ret.weight",
    ):
        convert(StateFile(state), "switch-head", ImportOptions(active=2))


def test_one_routed_expert_per_head_is_refused(generator: torch.Generator) -> None:
    state = authors.switch_head_state(generator, experts=2)
    for index in range(2):
        prefix = f"unique_layers.{index}.self_attn."
        for name in ("projections.v", "projections.o", "selections.v", "selections.o"):
            state[prefix + name] = state[prefix + name][:2]
    with pytest.raises(CheckpointError, match="one routed expert per head"):
        convert(StateFile(state), "switch-head", ImportOptions(active=1))


@pytest.mark.parametrize(
    ("geometry", "options", "message"),
    [
        ({}, ImportOptions(), "give active"),
        ({"feed_forward_experts": 4}, ImportOptions(active=1), "give feed_forward_active"),
        ({}, ImportOptions(active=2, heads=3), "heads is 3, but the file's weights are those of 2 heads"),
        ({"relative": True}, ImportOptions(active=2, positions="rope"), "its positions are relative"),
        ({}, ImportOptions(active=2, rope_fraction=0.4), "RoPE turns pairs of channels, but 0.4 of 8 are 3"),
        (
            {"feed_forward_experts": 4},
            ImportOptions(active=1, feed_forward_active=1, activation="silu"),
            "use relu, gelu or gelu_tanh",
        ),
    ],
)
def test_options_that_are_missing_or_contradict_the_file(
    geometry: dict[str, Any], options: ImportOptions, message: str, generator: torch.Generator
) -> None:
    with pytest.raises(OptionError, match=message):
        convert(StateFile(authors.switch_head_state(generator, **geometry)), "switch-head", options)


def test_presets_give_what_shapes_do_not_show(generator: torch.Generator) -> None:
    sizes = {"width": 412, "layers": 16, "heads": 2, "experts": 5, "head_dim": 76, "hidden": 2080, "vocabulary": 5}
    state = authors.switch_head_state(generator, **sizes, relative=True)
    mixer = convert(StateFile(state), "switch-head", preset="wikitext103-47m").config.layers[0].mixer
    assert isinstance(mixer, SwitchHeadConfig) and (mixer.active, mixer.positions) == (2, "xl")
    mixer = convert(StateFile(state), "switch-head", preset="c4-47m").config.layers[15].mixer
    assert isinstance(mixer, SwitchHeadConfig) and mixer.active == 3


@pytest.mark.parametrize(("preset", "experts"), [("wikitext103-47m", 0), ("enwik8", 0), ("switch-all-47m", 5)])
def test_presets_refuse_files_of_other_sizes(preset: str, experts: int, generator: torch.Generator) -> None:
    state = authors.switch_head_state(generator, feed_forward_experts=experts)
    with pytest.raises(OptionError, match=f"not the preset {preset}: it has width 16 instead of"):
        convert(StateFile(state), "switch-head", preset=preset)


def test_unknown_presets_and_layouts_are_refused(generator: torch.Generator) -> None:
    state = StateFile(authors.switch_head_state(generator))
    with pytest.raises(OptionError, match=r"unknown for the layout switch-head; known are wikitext103-47m"):
        convert(state, "switch-head", preset="listops")
    with pytest.raises(OptionError, match="the layout 'bert' is unknown"):
        convert(state, "bert")  # type: ignore[arg-type]
