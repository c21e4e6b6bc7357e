"""RWKV-7's layouts: our imported model against an independent formula over its author's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models.decoding import decode, largest_difference, random_chunks, random_lengths
from tests.models.importers import goose
from tests.models.importers.test_relatives import errors

from hsm_models import LanguageModel
from hsm_models.errors import CheckpointError
from hsm_models.importers import ImportOptions, OptionError, convert, to_authors_layout
from hsm_models.importers.state_file import StateFile


@pytest.mark.parametrize("length", [1, 19])
@pytest.mark.parametrize(("heads", "head"), [(2, 8), (3, 4)])
@pytest.mark.parametrize("transformers", [False, True])
def test_it_equals_its_formula(
    transformers: bool, heads: int, head: int, length: int, generator: torch.Generator
) -> None:
    state = goose.state(generator, heads=heads, head=head)
    imported = convert(StateFile(goose.as_transformers(state) if transformers else dict(state)), "rwkv7")
    assert [layer.mixer.kind for layer in imported.config.layers] == ["rwkv7", "rwkv7_channel"] * 3
    tokens = torch.randint(13, (2, length), generator=generator)
    # transformers' code takes the epsilon of a head's norm from its width.
    expected = goose.logits(state, tokens.numpy(), head * 1e-5 if transformers else 64e-5)
    single, double = errors(imported, tokens, expected)
    assert single <= 2e-6 and double <= 1e-12


def test_it_decodes_in_chunks(generator: torch.Generator) -> None:
    imported = convert(StateFile(goose.state(generator)), "rwkv7")
    model = LanguageModel(imported.config).double().eval()
    model.load_state_dict(imported.weights)
    tokens = torch.randint(13, (3, 17), generator=generator)
    chunks = random_chunks(random_lengths(3, 17, generator), generator)
    rows = decode(model.forward_cached, model.initial_state(3, 17), tokens, chunks)
    assert largest_difference(rows, model(tokens)) <= 1e-12


def test_names_map_both_ways(generator: torch.Generator) -> None:
    state = goose.state(generator)
    imported = convert(StateFile(dict(state)), "rwkv7")
    theirs = to_authors_layout(imported.weights, imported.config, "rwkv7")
    assert set(theirs) == set(state) and all(torch.equal(theirs[name], state[name]) for name in state)


def test_weights_of_the_first_layer_that_nothing_reads_are_left_out(generator: torch.Generator) -> None:
    state = goose.state(generator)
    more = {f"blocks.0.att.v{part}": state[f"blocks.1.att.v{part}"] for part in "012"}
    imported = convert(StateFile(state | more), "rwkv7")
    assert imported.ignored == tuple(sorted(more))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "another activation"),
        ({"attn": {"layers": [1]}}, "layers of softmax attention"),
        ({"norm_first": False}, "no norm behind the embedding"),
        ({"hidden_size": 16, "value_dim": [16, 32]}, "values of another width"),
        ({"model_type": "rwkv6"}, "model_type = 'rwkv6'"),
    ],
)
def test_configurations_without_an_equivalent_are_refused(
    change: dict[str, Any], message: str, generator: torch.Generator
) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(StateFile(goose.as_transformers(goose.state(generator)), change), "rwkv7")


def test_other_generations_and_contradictions_are_refused(generator: torch.Generator) -> None:
    state = goose.state(generator)
    with pytest.raises(OptionError, match="heads is 3, but the weights have 2"):
        convert(StateFile(dict(state)), "rwkv7", ImportOptions(heads=3))
    with pytest.raises(CheckpointError, match="deep embeddings"):
        convert(StateFile(state | {"blocks.0.ffn.s_emb.weight": torch.zeros(13, 4)}), "rwkv7")
    with pytest.raises(CheckpointError, match="an earlier generation of RWKV"):
        convert(StateFile({"emb.weight": torch.zeros(3, 4), "blocks.0.att.time_decay": torch.zeros(4)}), "rwkv7")
    with pytest.raises(CheckpointError, match="no RWKV-7 language model"):
        convert(StateFile({"embedding.weight": torch.zeros(3, 4)}), "rwkv7")
