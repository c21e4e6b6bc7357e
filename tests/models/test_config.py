"""Configurations: JSON round trips, and one clear sentence for everything that is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from tests.models.examples import CLASSIFIERS, LANGUAGE_MODELS, MODELS

from hsm_models import HSMConfig, LayerConfig, ModelConfig, SwitchHeadConfig
from hsm_models.errors import ConfigError


@pytest.mark.parametrize("name", sorted(MODELS))
def test_json_round_trip(name: str) -> None:
    config = MODELS[name]
    assert ModelConfig.from_json(config.to_json()) == config
    assert ModelConfig.from_json(config.to_json(indent=None)) == config


def test_a_window_is_written_only_where_there_is_one() -> None:
    # Fingerprints hash this text: a model without a window keeps the one that it had before windows were known.
    # The same holds for causal mixers that may be otherwise.
    assert "causal" not in MODELS["switch_head"].to_json() + MODELS["hsm"].to_json()
    assert [name for name, config in MODELS.items() if "window" in config.to_json()] == ["based"]
    windowed = ModelConfig.from_json(changed("hybrid", ["layers", 1, "mixer", "window"], 7))
    assert windowed.layers[1].mixer == dataclasses.replace(MODELS["hybrid"].layers[1].mixer, window=7)  # type: ignore[call-arg]
    assert windowed.to_json().count("window") == 1
    assert ModelConfig.from_json(windowed.to_json()) == windowed


def changed(name: str, path: list[str | int], value: Any) -> str:
    """The JSON of an example with one value replaced."""
    data = json.loads(MODELS[name].to_json())
    target = data
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return json.dumps(data)


LAYER = ["layers", 0]
MIXER = ["layers", 0, "mixer"]
REFUSALS = [
    ("hsm", ["width"], 0, "width must be positive"),
    ("hsm", ["width"], "16", "config.width must be of type int"),
    ("hsm", ["width"], True, "config.width must be of type int"),
    ("hsm", ["width"], 16.5, "config.width must be of type int"),
    ("hsm", ["width"], 2**40, "below 2"),
    ("hsm", ["norm_eps"], float("nan"), "norm_eps must be finite"),
    ("hsm", ["norm_eps"], float("inf"), "norm_eps must be finite"),
    ("hsm", ["norm_eps"], -1.0, "norm_eps must lie between"),
    ("hsm", ["vocab_size"], 0, "vocab_size must be positive"),
    ("hsm", ["task"], "translation", "config.task must be one of language_model"),
    ("hsm", ["colour"], "blue", "unknown fields colour"),
    ("hsm", ["layers"], {}, "config.layers must be a list"),
    ("hsm", ["layers"], [1], r"config.layers\[0\] must be an object"),
    ("hsm", ["positions"], "learned", "needs config.max_length"),
    ("hsm", ["masked"], True, "masked is for classifiers"),
    ("hsm", ["image"], {"size": 4, "patch": 2}, "config.image is given"),
    ("hsm", ["input"], "image", "needs the task"),
    ("hsm", ["embedding_scale"], 0, "embedding_scale must be positive"),
    ("hsm", [*MIXER, "kind"], "mamba", r"layers\[0\].mixer.kind must be one of gated_convolution, hsm"),
    ("hsm", [*MIXER, "mixing"], "blend", r"layers\[0\].mixer.mixing must be one of scalar"),
    ("hsm", [*MIXER, "shifts"], [], "shifts must not be empty"),
    ("hsm", [*MIXER, "shifts"], [-1], "shifts must be >= 0 when causal is true"),
    ("hsm", [*MIXER, "causal"], False, "needs causal mixers"),
    ("switch_head", [*MIXER, "causal"], False, "needs causal mixers"),
    ("hsm", [*MIXER, "shifts"], [1, 2, 3], "does not split into 3"),
    ("hsm", [*MIXER, "shifts"], [2**31], "below 2"),
    ("hsm", [*LAYER, "feed_forward", "hidden"], 0, "hidden must be positive"),
    ("hybrid", ["layers", 1, "mixer", "window"], 0, r"layers\[1\].mixer.window must be at least 1"),
    ("hybrid", ["layers", 3, "mixer", "window"], 2.5, "window"),
    ("taylor_shift", [*MIXER, "causal"], False, "needs causal mixers; set causal to true"),
    ("taylor_shift", [*MIXER, "output_norm"], True, "output_norm has no meaning"),
    ("taylor_shift", [*MIXER, "heads"], 3, "not a multiple of heads 3"),
    ("taylor_shift", [*MIXER, "heads"], 0, "heads must be positive"),
    ("taylor_shift", [*MIXER, "head_dim"], -1, "head_dim must be positive"),
    ("switch_head", [*MIXER, "active"], 5, "active 5 must lie between 1 and experts 4"),
    ("switch_head", [*MIXER, "rope_fraction"], 1.5, "rope_fraction"),
    ("switch_head", [*MIXER, "rope_base"], 0.0, "rope_base"),
    ("tokens", ["classes"], 0, "classes must be positive"),
    ("tokens", ["tie_embeddings"], True, "tie_embeddings is for language models"),
    ("tokens", [*MIXER, "causal"], "yes", "causal must be of type bool"),
    ("image", ["image"], None, "config.image is not given"),
    ("image", ["image", "patch"], 5, "not a multiple"),
    ("image", ["image", "patch"], 0, "not a multiple"),
    ("image", ["masked"], True, "not for images"),
]


@pytest.mark.parametrize(("name", "path", "value", "message"), REFUSALS)
def test_refuses(name: str, path: list[str | int], value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_json(changed(name, path, value))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"config"', "[" * 100_000, '{"width": ' + "9" * 10_000 + "}", "{}", '{"task": "x"}'],
)
def test_refuses_text_that_is_no_configuration(text: str) -> None:
    with pytest.raises(ConfigError):
        ModelConfig.from_json(text)


def test_the_class_token_needs_a_layer_that_sees_all() -> None:
    with pytest.raises(ConfigError, match="not causal"):
        dataclasses.replace(CLASSIFIERS["pixels"], pooling="cls", layers=(LayerConfig(HSMConfig()),))


def test_any_mixer_that_sees_all_serves_the_class_token() -> None:
    for mixer in (HSMConfig(shifts=(-1, 1), causal=False), SwitchHeadConfig(causal=False)):
        config = dataclasses.replace(CLASSIFIERS["pixels"], pooling="cls", layers=(LayerConfig(mixer),))
        assert ModelConfig.from_json(config.to_json()) == config
        assert json.loads(config.to_json())["layers"][0]["mixer"]["causal"] is False


def test_default_shifts_end_before_they_overflow() -> None:
    layer = LayerConfig(HSMConfig())
    dataclasses.replace(LANGUAGE_MODELS["hsm"], layers=(layer,) * 31)
    with pytest.raises(ConfigError, match="give shifts"):
        dataclasses.replace(LANGUAGE_MODELS["hsm"], layers=(layer,) * 32)
