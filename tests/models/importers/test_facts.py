"""What the weights do not show: every fact has an origin, and what cannot be rebuilt is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.importers import authors

from hsm_models import SequenceClassifier, SwitchHeadConfig, TaylorShiftConfig
from hsm_models.errors import CheckpointError
from hsm_models.importers import ImportedModel, ImportOptions, OptionError, convert, load_attention
from hsm_models.importers.state_file import StateFile


def origins(imported: ImportedModel) -> dict[str, tuple[Any, str]]:
    """Return value and origin of each fact, by name."""
    return {fact.name: (fact.value, fact.origin) for fact in imported.facts}


def test_everything_that_nobody_said_is_assumed(generator: torch.Generator) -> None:
    facts = origins(convert(StateFile(authors.taylor_shift_state(generator)), "taylor-shift"))
    assert facts["heads"] == (4, "the weights")
    assumed = {name for name, (_, origin) in facts.items() if origin == "assumed"}
    assert assumed == {"activation", "output_norm", "input", "norm_eps", "pooling", "cls_position"}
    facts = origins(convert(StateFile(authors.switch_head_state(generator)), "switch-head", ImportOptions(active=2)))
    assert facts["active"] == (2, "the options") and facts["heads"] == (2, "the weights")
    assumed = {name for name, (_, origin) in facts.items() if origin == "assumed"}
    assert assumed == {
        "routing", "topk_mode", "positions", "rope_fraction", "rope_base", "activation", "norm_eps", "window",
    }  # fmt: skip


def test_a_registered_name_answers_all_but_the_input(generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    imported = convert(StateFile(state, {"model": "taylor_shift_eff_imdb", "num_heads": None}), "taylor-shift")
    assert {fact.name for fact in imported.facts if fact.assumed} == {"input"}
    assert origins(imported)["output_norm"] == (True, "the file")


def test_an_option_that_the_file_does_not_need_is_listed(generator: torch.Generator) -> None:
    options = ImportOptions(active=2, output_norm=True)
    imported = convert(StateFile(authors.switch_head_state(generator)), "switch-head", options)
    assert next(fact for fact in imported.facts if fact.name == "output_norm").effect.startswith("nothing")


def test_models_without_temperatures_have_no_output_norm_in_the_training_code(generator: torch.Generator) -> None:
    state = StateFile(authors.taylor_shift_state(generator, normalize=False), {"model": "taylor_shift_nonorm_listops"})
    mixer = convert(state, "taylor-shift", ImportOptions(heads=4)).config.layers[0].mixer
    assert isinstance(mixer, TaylorShiftConfig) and not mixer.output_norm
    package = convert(StateFile(state.weights), "taylor-shift", ImportOptions(heads=4, query_scale="package"))
    mixer = package.config.layers[0].mixer
    assert isinstance(mixer, TaylorShiftConfig) and mixer.output_norm


@pytest.mark.parametrize(
    ("arguments", "feature"),
    [
        ({"model": "transformer_lra"}, "transformer_lra: softmax attention"),
        ({"model": "ViT-Ti/16"}, "softmax attention"),
        ({"model": "performer_lra_cifar"}, "Performer"),
        ({"model": "some_model"}, "some_model: no TaylorShift"),
        ({"model": "taylor_shift_triv_convembed_listops"}, "convolutional embeddings"),
        ({"model": "taylor_shift_eff_imdb", "pre_norm": True}, "pre_norm = True"),
        ({"model": "taylor_shift_eff_imdb", "global_pool": "map"}, "global_pool = 'map'"),
        ({"a": 0.25}, "a = 0.25"),
    ],
)
def test_other_models_of_the_trainer_are_refused_by_name(
    arguments: dict[str, Any], feature: str, generator: torch.Generator
) -> None:
    with pytest.raises(CheckpointError, match=feature):
        convert(StateFile(authors.taylor_shift_state(generator), arguments), "taylor-shift")


@pytest.mark.parametrize(
    ("name", "shape", "feature"),
    [
        ("patch_embed.proj.0.weight", (8, 11, 3), "convolutional embeddings"),
        ("norm_pre.weight", (16,), "pre_norm"),
        ("fc_norm.weight", (16,), "average pooling with a LayerNorm behind it"),
        ("blocks.0.attn.q_norm.weight", (4,), "LayerNorms of queries"),
    ],
)
def test_features_of_other_layouts_are_refused_by_their_weights(
    name: str, shape: tuple[int, ...], feature: str, generator: torch.Generator
) -> None:
    state = authors.taylor_shift_state(generator) | {name: torch.ones(shape)}
    with pytest.raises(CheckpointError, match=feature):
        convert(StateFile(state), "taylor-shift")


def test_pictures_that_are_not_square_need_their_size(generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator, image=(20, 4, 3))  # 25 rows: 5 x 5, or 24 and one for CLS
    assert convert(StateFile(dict(state)), "taylor-shift").config.image is not None
    for options in (ImportOptions(image_size=24), ImportOptions(cls_position=True), ImportOptions(image_size=21)):
        with pytest.raises(CheckpointError, match="no square image"):
            convert(StateFile(dict(state)), "taylor-shift", options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"moe.topk_mode": "approx"}, "moe.topk_mode = 'approx'"),
        ({"moe.topk_mode": "l1_approx"}, "approximate top-k"),
        ({"moe.att.variant": "moa"}, r"mixture of attention heads \(MoA\)"),
        ({"moe.att.v_expert": 0}, "dense values"),
        ({"moe.att.q_expert": True}, "experts in the query projection"),
        ({"moe.att.shared_experts": 1}, "shared experts"),
        ({"moe.selection_mode": "gate"}, r"softmax routing \(gate\)"),
        ({"transformer.variant": "preln_rope"}, "'preln_moeatt', 'preln_moe'"),
        ({"transformer.activation": "identity"}, "'relu', 'gelu'"),
        ({"transformer.variant": "preln_moe", "moe.att.enable": False}, "dense softmax attention"),
        ({"moe.att.v_size": 8, "transformer.head_projection_size": 16}, "values of another width"),
        ({"moe.att.qside_n_experts": 2, "moe.att.n_experts": 3}, "output experts"),
        ({"embedding_size": 8}, "embedding_adapter"),
        (
            {"lm.unroll": 8, "lm.trafo.context_blocks": 1, "lm.trafo.last_layer_context": True},
            "last_layer_context",
        ),
    ],
)
def test_unsupported_values_are_refused_with_what_is_supported(
    arguments: dict[str, Any], message: str, generator: torch.Generator
) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(StateFile(authors.switch_head_state(generator), arguments), "switch-head", ImportOptions(active=2))


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        ({"projections.v": (2, 16, 8), "projections.o": (2, 8, 16)}, "shared experts"),
        ({"projections.v": (16, 16)}, "dense values"),
        ({"selections.q": (6, 16)}, "experts in the query or key projections"),
        ({"norm_ret.weight": (8,)}, "LayerNorm behind the attention"),
    ],
)
def test_features_of_the_training_code_are_refused_by_their_weights(
    change: dict[str, tuple[int, ...]], feature: str, generator: torch.Generator
) -> None:
    state = authors.switch_head_state(generator)
    for name, shape in change.items():
        state[f"unique_layers.0.self_attn.{name}"] = torch.ones(shape)
    with pytest.raises(CheckpointError, match=feature):
        convert(StateFile(state), "switch-head", ImportOptions(active=2))


@pytest.mark.parametrize(
    ("arguments", "window"),
    [
        ({"lm.unroll": 8, "lm.trafo.context_blocks": 1}, 16),
        ({"lm.unroll": 8, "lm.trafo.context_blocks": 0}, 8),
        ({"lm.unroll": 8, "lm.unroll_eval": 4, "lm.trafo.context_blocks": 1, "lm.trafo.test_context_blocks": 2}, 12),
        ({"lm.unroll": 8, "lm.trafo.context_blocks": 1, "lm.trafo.same_length": True}, 9),
        ({"lm.unroll": 8}, None),
    ],
)
def test_the_context_of_transformer_xl_is_imported(
    arguments: dict[str, Any], window: int | None, generator: torch.Generator
) -> None:
    state = authors.switch_head_state(generator, relative=True)
    mixer = convert(StateFile(dict(state), arguments), "switch-head", ImportOptions(active=2)).config.layers[0].mixer
    assert isinstance(mixer, SwitchHeadConfig) and mixer.window == window
    if window:
        with pytest.raises(OptionError, match="window is 5 according to the options"):
            convert(StateFile(state, arguments), "switch-head", ImportOptions(active=2, window=5))


def test_unknown_options_of_the_trainer_are_listed(generator: torch.Generator) -> None:
    arguments = {"moe.new_trick": 3, "moe.perplexity_reg": 0.1, "lr": 1.0}
    imported = convert(
        StateFile(authors.switch_head_state(generator), arguments), "switch-head", ImportOptions(active=2)
    )
    facts = origins(imported)
    assert facts["moe.new_trick"] == (3, "assumed") and "moe.perplexity_reg" not in facts and "lr" not in facts


def test_a_single_layer_warns_of_what_it_assumes(generator: torch.Generator) -> None:
    state = authors.attention_state(generator, 12, 2, 8, 4)
    with pytest.warns(UserWarning, match=r"rope_fraction = 0.5 .*rope_base = 10000"):
        load_attention(state, ImportOptions(active=2))


def test_the_mean_leaves_the_class_token_out(generator: torch.Generator) -> None:
    config = convert(
        StateFile(authors.taylor_shift_state(generator)), "taylor-shift", ImportOptions(pooling="avg")
    ).config
    model = SequenceClassifier(config).eval()
    assert config.pooling == "tokens" and model.cls_token is not None
    tokens = torch.randint(11, (2, 7), generator=generator)
    lengths = torch.tensor([7, 4])
    padded = tokens.clone()
    padded[1, 4:] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(padded, lengths)[1], model(tokens[1:, :4])[0], rtol=1e-5, atol=1e-5)
