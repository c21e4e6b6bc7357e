"""MoEUT's and sigma-MoE's layouts: our imported models against independent formulas over their authors' weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.models.importers import relatives

from hsm_models import LanguageModel, ModelConfig, MoEConfig, SwitchHeadConfig
from hsm_models.checkpoint import build_model
from hsm_models.errors import CheckpointError, ConfigError
from hsm_models.importers import (
    ImportedModel,
    ImportOptions,
    OptionError,
    convert,
    read_authors_model,
    read_state_file,
    to_authors_layout,
)
from hsm_models.importers.state_file import StateFile

MOEUT = ImportOptions(layers=6, active=2, feed_forward_active=3)
ARGUMENTS: dict[str, Any] = {
    "transformer.variant": "preln_moe_universal",
    "transformer.encoder_n_layers": 6,
    "transformer.universal.group_size": 2,
    "transformer.n_heads": 2,
    "moe.att.enable": 1,
    "moe.att.k": 2,
    "pkm.n_heads": 3,
    "moe.nonorm": 1,
    "lm.unroll": 32,
    "lm.trafo.context_blocks": 0,
}


def errors(imported: ImportedModel, tokens: torch.Tensor, expected: np.ndarray) -> tuple[float, float]:
    """Return the largest relative error of the model in float32 and in float64."""
    model = build_model(imported.config).eval()
    model.load_state_dict(imported.weights)
    scale = np.abs(expected).max()
    with torch.no_grad():
        single = np.abs(model(tokens).numpy() - expected).max() / scale
        return float(single), float(np.abs(model.double()(tokens).numpy() - expected).max() / scale)


@pytest.mark.parametrize("length", [1, 17])
@pytest.mark.parametrize(("trained", "pre"), [(False, False), (True, False), (True, True)])
def test_moeut_equals_its_formula(trained: bool, pre: bool, length: int, generator: torch.Generator) -> None:
    state = relatives.moeut_state(generator, trained=trained, pre=pre)
    file = StateFile(dict(state), ARGUMENTS if trained else {})
    imported = convert(file, "moeut", None if trained else MOEUT)
    assert (len(imported.config.layers), imported.config.repeats) == (2, 3)
    tokens = torch.randint(13, (2, length), generator=generator)
    expected = relatives.moeut_logits(state, tokens.numpy(), layers=6, active=2, network_active=3, pre=pre)
    single, double = errors(imported, tokens, expected)
    assert single <= 2e-6 and double <= 1e-12
    mixer = imported.config.layers[0].mixer
    assert isinstance(mixer, SwitchHeadConfig) and mixer.window == (32 if trained else None)


def test_moeut_decodes_token_by_token(generator: torch.Generator) -> None:
    imported = convert(StateFile(relatives.moeut_state(generator, trained=False)), "moeut", MOEUT)
    model = LanguageModel(imported.config).double().eval()
    model.load_state_dict(imported.weights)
    tokens = torch.randint(13, (2, 9), generator=generator)
    state, position = model.initial_state(2, 16), torch.zeros(2, dtype=torch.int64)
    assert len(state) == 12  # keys and values of six runs of two layers
    steps = []
    for part in (tokens[:, :4], *tokens[:, 4:].split(1, dim=1)):
        lengths = torch.full((2,), part.shape[1])
        logits, state = model.forward_cached(part, state, position, lengths)
        position = position + lengths
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), model(tokens), rtol=1e-10, atol=1e-10)


def test_how_often_the_layers_run_is_demanded_or_read(generator: torch.Generator) -> None:
    state = relatives.moeut_state(generator, trained=False)
    with pytest.raises(OptionError, match="a group of 2 layers, which is run several times: give layers"):
        convert(StateFile(dict(state)), "moeut", ImportOptions(active=2, feed_forward_active=3))
    with pytest.raises(OptionError, match="layers is 5, which is no multiple of the 2"):
        convert(StateFile(dict(state)), "moeut", ImportOptions(layers=5, active=2, feed_forward_active=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer.universal.group_type": "aabb"}, "each layer repeated by itself"),
        ({"transformer.variant": "preln_sut_universal"}, "supported: 'preln_moe_universal'"),
        ({"moe.bias": True}, "biases in the experts"),
        ({"moe.sel_bias": 1}, "a bias in the routing"),
        ({"lm.trafo.norm_input": True}, "LayerNorm behind the embedding"),
        ({"transformer.embedding_scale": 2.0}, "a scaled embedding"),
        ({"moe.selection_mode": "gate"}, "softmax routing"),
    ],
)
def test_moeut_options_without_an_equivalent_are_refused(
    change: dict[str, Any], message: str, generator: torch.Generator
) -> None:
    state = relatives.moeut_state(generator, trained=True)
    with pytest.raises(CheckpointError, match=message):
        convert(StateFile(state, ARGUMENTS | change), "moeut")


def test_the_layouts_send_each_other_their_files(generator: torch.Generator) -> None:
    state = StateFile(relatives.moeut_state(generator, trained=True), ARGUMENTS)
    with pytest.raises(CheckpointError, match="the layout moeut"):
        convert(state, "switch-head")
    with pytest.raises(CheckpointError, match="no MoEUT language model"):
        convert(StateFile(relatives.sigma_state(generator)), "moeut", MOEUT)


def test_moeut_names_map_both_ways(generator: torch.Generator) -> None:
    state = relatives.moeut_state(generator, trained=False)
    imported = convert(StateFile(dict(state)), "moeut", MOEUT)
    theirs = to_authors_layout(imported.weights, imported.config, "moeut")
    assert set(theirs) == set(state) and all(torch.equal(theirs[name], state[name]) for name in state)


def as_traceable(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One Linear an expert, as the `traceable` layers have it."""
    found = {}
    for name, tensor in state.items():
        if name.endswith(("ff.keys", "ff.values")):
            found |= {f"{name}.{expert}.weight": matrix.T for expert, matrix in enumerate(tensor)}
        else:
            found[name] = tensor
    return found


def as_run_on_a_cpu(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All experts in one matrix, as the authors' layer leaves it behind a run on a CPU."""
    found = dict(state)
    for name, tensor in state.items():
        if name.endswith("ff.keys"):
            found[name] = tensor.transpose(1, 2).reshape(-1, tensor.shape[1])
        if name.endswith("ff.values"):
            found[name] = tensor.reshape(-1, tensor.shape[2]).T
    return found


@pytest.mark.parametrize("form", [dict, as_traceable, as_run_on_a_cpu])
@pytest.mark.parametrize(("sparse_step", "tied"), [(1, False), (2, True), (9, False)])
def test_sigma_moe_equals_its_formula(form: Any, sparse_step: int, tied: bool, generator: torch.Generator) -> None:
    state = relatives.sigma_state(generator, sparse_step=sparse_step, tied=tied)
    imported = convert(StateFile(form(state), relatives.SIGMA_CONFIG), "sigma-moe")
    routed = [isinstance(layer.feed_forward, MoEConfig) for layer in imported.config.layers]
    assert routed == [index % sparse_step == 0 for index in range(3)] and imported.config.tie_embeddings == tied
    tokens = torch.randint(13, (2, 11), generator=generator)
    single, double = errors(imported, tokens, relatives.sigma_logits(state, tokens.numpy()))
    assert single <= 2e-6 and double <= 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selection_mode": "softmax"}, "selection_mode = 'softmax'"),
        ({"approximate": True}, "approximate top-k"),
        ({"moe_bias": True}, "biases in the experts"),
        ({"activation": "silu"}, "'gelu_new'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "scaled RoPE"),
        ({"model_type": "phi"}, "model_type = 'phi'"),
        ({"v_dim": 8}, "experts of another width"),
    ],
)
def test_sigma_moe_configurations_without_an_equivalent_are_refused(
    change: dict[str, Any], message: str, generator: torch.Generator
) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(StateFile(relatives.sigma_state(generator), relatives.SIGMA_CONFIG | change), "sigma-moe")


def test_sigma_moe_without_a_configuration_assumes_what_it_says(generator: torch.Generator) -> None:
    state = relatives.sigma_state(generator)
    with pytest.raises(OptionError, match=r"give heads, or a config.json"):
        convert(StateFile(dict(state)), "sigma-moe")
    imported = convert(StateFile(state), "sigma-moe", ImportOptions(heads=2, feed_forward_active=2))
    assert {fact.name for fact in imported.facts if fact.assumed} == {
        "rope_fraction", "rope_base", "activation", "norm_eps",
    }  # fmt: skip


@pytest.fixture
def folder(generator: torch.Generator, tmp_path: Path) -> Path:
    """A folder as transformers writes it, in two shards."""
    state = {name: tensor.contiguous() for name, tensor in relatives.sigma_state(generator).items()}
    files = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(state)}
    for file in set(files.values()):
        save_file({name: tensor for name, tensor in state.items() if files[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (tmp_path / "config.json").write_text(json.dumps(relatives.SIGMA_CONFIG))
    return tmp_path


def test_sharded_folders_are_read(folder: Path) -> None:
    imported = read_authors_model(folder, "sigma-moe")
    assert imported.config.vocab_size == 13 and {fact.origin for fact in imported.facts} == {"the file"}


def test_broken_folders_are_refused(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    for change, message in (
        ({"weight_map": content["weight_map"] | {"more": "../model.safetensors"}}, "outside of its folder"),
        ({"weight_map": content["weight_map"] | {"more": "model-00003.safetensors"}}, r"lacks model-00003.safetensors"),
        ({"weight_map": content["weight_map"] | {"more": "model-00001-of-00002.safetensors"}}, "lacks more"),
        ({"weight_map": [1]}, "no index of shards"),
    ):
        index.write_text(json.dumps(content | change))
        with pytest.raises(CheckpointError, match=message):
            read_state_file(folder)
    index.write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        read_state_file(folder)


def test_layers_that_only_some_parts_can_make_are_refused() -> None:
    data = {
        "task": "language_model", "width": 8, "vocab_size": 5,
        "layers": [{"mixer": {"kind": "hsm"}, "norm": "peri"}],
    }  # fmt: skip
    with pytest.raises(ConfigError, match="norm 'peri' is for the mixer switch_head"):
        ModelConfig.from_dict(data)
    with pytest.raises(ConfigError, match="repeats must be at least 1"):
        ModelConfig.from_dict(data | {"layers": [], "repeats": 0})
