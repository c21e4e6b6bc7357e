"""Files as people really have them: each is read right, refused by name, or its assumption is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.models.importers import authors, goose, hazy, relatives

from hsm_models.errors import CheckpointError, ModelError
from hsm_models.importers import ImportedModel, ImportOptions, Layout, OptionError, convert, read_authors_model
from hsm_models.importers.state_file import StateFile

Change = Callable[[authors.State], Mapping[str, Any]]
WEIGHT = "blocks.0.mlp.fc1.weight"


def read(content: Any, folder: Path, layout: Layout = "taylor-shift", **options: Any) -> ImportedModel:
    torch.save(content, folder / "model.pth")
    return read_authors_model(folder / "model.pth", layout, ImportOptions(**options))


def assumed(imported: ImportedModel) -> dict[str, Any]:
    return {fact.name: fact.value for fact in imported.facts if fact.assumed}


def same(one: ImportedModel, other: ImportedModel) -> bool:
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.mark.parametrize(
    "prefix",
    ["module.module.", "module._orig_mod.", "_forward_module.", "_fsdp_wrapped_module.", "model.", "module.net."],
)
def test_what_wraps_a_model_stands_before_its_names(prefix: str, tmp_path: Path, generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    wrapped = {prefix + name.replace("blocks.0.", "blocks.0._orig_mod."): tensor for name, tensor in state.items()}
    imported = read(wrapped, tmp_path)
    assert same(imported, read(state, tmp_path))
    told = [fact.value for fact in imported.facts if fact.name == "prefix"]
    assert told == {"model.": ["model."], "module.net.": ["net."]}.get(prefix, [])


def test_several_models_in_one_file_are_refused(tmp_path: Path, generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    both = {f"{owner}.{name}": tensor for owner in ("student", "teacher") for name, tensor in state.items()}
    with pytest.raises(CheckpointError, match=r"several models: student\., teacher\."):
        read(both, tmp_path)


def test_lightning_and_others_put_the_weights_elsewhere(tmp_path: Path, generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    plain = read(state, tmp_path)
    lightning = {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "epoch": 3, "callbacks": {}}
    for content in (lightning, {"model_state_dict": state, "optimizer": {"state": {}, "param_groups": []}}):
        imported = read(content, tmp_path)
        assert same(imported, plain) and assumed(imported) == assumed(plain)


def test_averages_beside_the_weights_are_told_and_can_be_chosen(tmp_path: Path, generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    average = {name: tensor + 1 for name, tensor in state.items()}
    content = {"model_state": state, "ema": average}
    imported = read(content, tmp_path)
    assert same(imported, read(state, tmp_path)) and assumed(imported)["weights_key"] == "model_state"
    assert "ema" in next(fact.effect for fact in imported.facts if fact.name == "weights_key")
    chosen = read(content, tmp_path, weights_key="ema")
    assert same(chosen, read(average, tmp_path)) and "weights_key" not in assumed(chosen)
    with pytest.raises(CheckpointError, match="holds weights under 'ema': say which by weights_key"):
        read({"ema": average, "epoch": 3}, tmp_path)
    with pytest.raises(CheckpointError, match="has no weights under 'x'; it has 'model_state', 'ema'"):
        read(content, tmp_path, weights_key="x")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.complex64, torch.bool])
def test_weights_that_are_no_weights_are_refused(dtype: Any, tmp_path: Path, generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    with pytest.raises(CheckpointError, match=rf"before quantisation: .*{WEIGHT} {dtype}"):
        read(state | {WEIGHT: state[WEIGHT].to(dtype)}, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_keep_their_values(dtype: Any, tmp_path: Path, generator: torch.Generator) -> None:
    state = {name: tensor.to(dtype) for name, tensor in authors.taylor_shift_state(generator).items()}
    up = read(state, tmp_path).weights["layers.0.feed_forward.up.weight"]
    assert torch.equal(up.to(dtype), state[WEIGHT]) and up.dtype in (torch.float32, torch.float64)


def _low_rank(state: authors.State) -> Mapping[str, Any]:
    return state | {"blocks.0.attn.qkv.lora_A.default.weight": torch.ones(2, 16)}


def _peft(state: authors.State) -> Mapping[str, Any]:
    return {f"base_model.model.{name}": tensor for name, tensor in state.items()}


def _renamed(**names: str) -> Change:
    def change(state: authors.State) -> Mapping[str, Any]:
        weight = state.pop(WEIGHT)
        return state | {WEIGHT.removesuffix("weight") + name: weight for name in names.values()}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_low_rank, "LoRA that is not merged .*merge_and_unload"),
        (_peft, "LoRA that is not merged"),
        (_renamed(g="weight_g", v="weight_v"), "a weight norm; .*remove_weight_norm"),
        (_renamed(a="parametrizations.weight.original0"), "remove_parametrizations"),
        (_renamed(a="weight_orig", b="weight_mask"), "pruned weights"),
        (_renamed(a="weight", b="SCB"), "quantised weights; import the weights from before"),
        (_renamed(a="weight", b="weight_scale_inv"), "quantised weights"),
    ],
)
def test_weights_that_are_not_yet_the_models_own_are_refused(
    change: Change, message: str, tmp_path: Path, generator: torch.Generator
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(dict(change(authors.taylor_shift_state(generator))), tmp_path)


def test_a_configuration_of_another_model_is_refused(generator: torch.Generator) -> None:
    state, config = relatives.sigma_state(generator), relatives.SIGMA_CONFIG
    for change, message in (
        ({"vocab_size": 14}, "vocab_size = 14, but the weights are those of vocab_size = 13"),
        ({"d_model": 32}, "d_model = 32"),
        ({"num_hidden_layers": 2}, "num_hidden_layers = 2"),
        ({"tie_word_embeddings": True}, "ties the output"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ):
        with pytest.raises(CheckpointError, match=message):
            convert(StateFile(dict(state), config | change), "sigma-moe")
    headless = {name: tensor for name, tensor in state.items() if not name.startswith("lm_head")}
    with pytest.raises(CheckpointError, match="no output projection"):
        convert(StateFile(headless, config | {"tie_word_embeddings": False}), "sigma-moe")
    goose_state = goose.as_transformers(goose.state(generator))
    with pytest.raises(CheckpointError, match="num_hidden_layers = 9"):
        convert(StateFile(goose_state, {"model_type": "rwkv7_fla", "num_hidden_layers": 9}), "rwkv7")
    padded = hazy.CONFIG | {"vocab_size": 10, "pad_vocab_size_multiple": 8, "n_layer": 4}
    assert convert(StateFile(hazy.state(generator), padded), "based").config.vocab_size == 13
    with pytest.raises(CheckpointError, match="vocab_size = 4"):
        convert(StateFile(hazy.state(generator), padded | {"vocab_size": 4}), "based")


def test_options_that_the_importer_has_never_heard_of_are_listed(generator: torch.Generator) -> None:
    config = relatives.SIGMA_CONFIG | {"sliding_window": 128, "new_trick": False, "torch_dtype": "bfloat16"}
    imported = convert(StateFile(relatives.sigma_state(generator), config), "sigma-moe")
    assert assumed(imported) == {"sliding_window": 128}


def _files(generator: torch.Generator) -> list[tuple[Layout, authors.State, dict[str, Any], ImportOptions]]:
    moe = {
        "moe.att.k": 2, "transformer.n_heads": 2, "rope.base": 1e4, "rope.rotate_fraction": 0.5, "lm.unroll": 8,
        "transformer.activation": "relu", "lm.trafo.context_blocks": 1, "moe.att.selection_mode": "sigmoid",
        "moe.topk_mode": "full", "transformer.variant": "preln_moeatt", "pkm.n_heads": 3, "moe.att.v_expert": True,
    }  # fmt: skip
    taylor = {"model": "taylor_shift_eff_imdb", "num_heads": 4, "a": 0.5, "global_pool": "token", "imsize": 32}
    group = moe | {"transformer.variant": "preln_moe_universal", "transformer.encoder_n_layers": 4}
    return [
        ("taylor-shift", authors.taylor_shift_state(generator), taylor | {"no_embed_class": True}, ImportOptions()),
        ("switch-head", authors.switch_head_state(generator), moe, ImportOptions()),
        ("moeut", relatives.moeut_state(generator, trained=True), group, ImportOptions()),
        ("sigma-moe", relatives.sigma_state(generator), dict(relatives.SIGMA_CONFIG), ImportOptions()),
        ("based", hazy.state(generator), dict(hazy.CONFIG), ImportOptions()),
        ("rwkv7", goose.as_transformers(goose.state(generator)), {"norm_eps": 1e-5, "value_dim": [16] * 3,
         "hidden_size": 16, "hidden_act": "sqrelu", "attn": None}, ImportOptions()),
    ]  # fmt: skip


STRANGE = [None, "", "x", [], ["relu"], {}, {"_target_": 3}, -1, 0, 2.5, True, float("nan"), float("inf"), 10**30]


def test_strange_values_of_every_option_are_refused_or_told_and_never_crash(generator: torch.Generator) -> None:
    """Whatever a file says of an option: the same model as without it, another that is told, or one clear error."""
    for layout, state, arguments, options in _files(generator):
        convert(StateFile(dict(state), arguments), layout, options)  # as it is, it is right
        for name in arguments:
            for value in STRANGE:
                try:
                    convert(StateFile(dict(state), arguments | {name: value}), layout, options)
                except ModelError as error:
                    assert "\n" not in str(error)
                except Exception as error:
                    pytest.fail(f"{layout}, {name} = {value!r}: {type(error).__name__}: {error}")


def test_options_of_no_use_are_refused_by_name() -> None:
    for options in ({"heads": 0}, {"active": "2"}, {"window": 1.5}, {"norm_eps": float("nan")}, {"output_norm": 1}):
        with pytest.raises(OptionError, match=f"{next(iter(options))} must be"):
            ImportOptions(**options)  # type: ignore[arg-type]


def test_a_folder_without_its_index_or_with_files_elsewhere_is_refused(
    tmp_path: Path, generator: torch.Generator
) -> None:
    state = {name: tensor.contiguous() for name, tensor in relatives.sigma_state(generator).items()}
    save_file(state, tmp_path / "model-00001-of-00001.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(relatives.SIGMA_CONFIG))
    with pytest.raises(CheckpointError, match="nor an index of shards"):
        read_authors_model(tmp_path, "sigma-moe")
    index = tmp_path / "model.safetensors.index.json"
    for file in ("/etc/passwd", "..", "", "../x.safetensors"):
        index.write_text(json.dumps({"weight_map": dict.fromkeys(state, file)}))
        with pytest.raises(CheckpointError, match=r"outside of its folder|lacks"):
            read_authors_model(tmp_path, "sigma-moe")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, "model-00001-of-00001.safetensors")}))
    assert read_authors_model(tmp_path, "sigma-moe").config.vocab_size == 13
