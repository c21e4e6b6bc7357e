"""Based's layout: our imported model against an independent formula over its authors' weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.models.decoding import decode, largest_difference, random_chunks, random_lengths
from tests.models.importers import hazy
from tests.models.importers.test_relatives import errors

from hsm_models import LanguageModel
from hsm_models.errors import CheckpointError
from hsm_models.importers import ImportOptions, OptionError, convert, read_authors_model, to_authors_layout
from hsm_models.importers.state_file import StateFile


@pytest.mark.parametrize("length", [1, 19])
@pytest.mark.parametrize(
    "form", [{}, {"rms": False, "convolution_bias": True}, {"tied": False}], ids=["published", "biases", "untied"]
)
def test_it_equals_its_formula(form: dict[str, bool], length: int, generator: torch.Generator) -> None:
    state = hazy.state(generator, **form)
    imported = convert(StateFile(dict(state), hazy.CONFIG), "based")
    kinds = [layer.mixer.kind for layer in imported.config.layers]
    assert kinds == ["gated_convolution", "taylor_shift", "softmax", "gated_convolution"]
    tokens = torch.randint(13, (2, length), generator=generator)
    single, double = errors(imported, tokens, hazy.logits(state, tokens.numpy()))
    assert single <= 2e-6 and double <= 5e-12  # their denominators, at least 1/2, are 1e-12 larger
    assert not [fact.name for fact in imported.facts if fact.assumed and fact.name != "rope_base"]


def test_it_decodes_in_chunks(generator: torch.Generator) -> None:
    imported = convert(StateFile(hazy.state(generator), hazy.CONFIG), "based")
    model = LanguageModel(imported.config).double().eval()
    model.load_state_dict({name: tensor.double() for name, tensor in imported.weights.items()})
    tokens = torch.randint(13, (3, 17), generator=generator)
    chunks = random_chunks(random_lengths(3, 17, generator), generator)
    rows = decode(model.forward_cached, model.initial_state(3, 17), tokens, chunks)
    assert largest_difference(rows, model(tokens)) <= 1e-12


def test_names_map_both_ways(generator: torch.Generator) -> None:
    state = hazy.state(generator, tied=False)
    imported = convert(StateFile(dict(state), hazy.CONFIG), "based")
    theirs = to_authors_layout(imported.weights, imported.config, "based")
    assert set(theirs) == set(state) and all(torch.equal(theirs[name], state[name]) for name in state)


def test_the_published_folder_is_read(generator: torch.Generator, tmp_path: Path) -> None:
    """Its table is stored once, its names have the trainer's prefix, and counters lie beside them."""
    state = {f"model.{name}": tensor for name, tensor in hazy.state(generator).items()}
    del state["model.transformer.embeddings.word_embeddings.weight"]
    save_file(state | {"train_metrics.num-tokens.count": torch.tensor(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(hazy.CONFIG))
    imported = read_authors_model(tmp_path, "based")
    assert imported.config.tie_embeddings and imported.config.vocab_size == 13


def test_what_the_weights_do_not_show_is_demanded_or_assumed(generator: torch.Generator) -> None:
    state = hazy.state(generator)
    with pytest.raises(OptionError, match=r"give heads, or a config.json"):
        convert(StateFile(dict(state)), "based")
    with pytest.raises(OptionError, match="give window"):
        convert(StateFile(dict(state)), "based", ImportOptions(heads=2))
    with pytest.raises(OptionError, match="8 channels of keys"):
        convert(StateFile(dict(state)), "based", ImportOptions(heads=3))
    imported = convert(StateFile(dict(state)), "based", ImportOptions(heads=2, window=5))
    assert {fact.name for fact in imported.facts if fact.assumed} == {
        "activation", "norm_eps", "rope_base", "rope_fraction",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "gelu_new"}, "another feed-forward network"),
        ({"fixed_decay": True}, "a decay in the linear attention"),
        ({"n_head": 4}, r"layers of \[2, 4\] heads; supported: one"),
        ({"alt_mixer": hazy.CONFIG["alt_mixer"] | {"use_rotary_apply": True}}, "RoPE in the linear attention"),
        ({"alt_mixer": hazy.CONFIG["alt_mixer"] | {"feature_map": {"_target_": "x.Exp"}}}, "feature_map x.Exp"),
        ({"rotary_emb_interleaved": True}, "RoPE over neighbouring channels"),
    ],
)
def test_configurations_without_an_equivalent_are_refused(
    change: dict[str, Any], message: str, generator: torch.Generator
) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(StateFile(hazy.state(generator), hazy.CONFIG | change), "based")


def test_other_layers_are_refused(generator: torch.Generator) -> None:
    state = hazy.state(generator)
    broken = {name: tensor for name, tensor in state.items() if "layers.2.mixer.Wqkv" not in name}
    with pytest.raises(CheckpointError, match=r"transformer\.layers\.2\.mixer is none of Based's layers"):
        convert(StateFile(broken, hazy.CONFIG), "based")
    with pytest.raises(CheckpointError, match="learned positions"):
        more = {"transformer.embeddings.position_embeddings.weight": torch.zeros(4, 16)}
        convert(StateFile(state | more, hazy.CONFIG), "based")
