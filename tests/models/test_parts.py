"""Kinds of mixers and feed-forward networks: registered by a decorator, found by an entry point, refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.acme_mean import Mean, MeanConfig
from tests.models.decoding import decode, largest_difference, random_chunks, random_lengths
from torch import Tensor, nn

from hsm_models import (
    ConfigError,
    FeedForwardConfig,
    HSMConfig,
    LanguageModel,
    LayerConfig,
    MixerConfig,
    MLPConfig,
    ModelConfig,
    build_model,
    load_checkpoint,
    mixer,
    save_checkpoint,
)
from hsm_models.dataclass_json import added
from hsm_models.parts import Kinds, feed_forward

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ModelConfig(
    task="language_model",
    width=12,
    vocab_size=11,
    layers=(LayerConfig(MeanConfig(), MLPConfig(24)), LayerConfig(HSMConfig()), LayerConfig(MeanConfig(groups=3))),
)

OURS = "gated_convolution, hsm, rwkv7, rwkv7_channel, softmax, switch_head, taylor_shift"


def installed(folder: Path, *entries: str, group: str = "hsm_models.mixers") -> dict[str, str]:
    """Install a package that offers entry points; return the environment of a process that sees it."""
    information = folder / "acme-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("\n".join([f"[{group}]", *entries, ""]))
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def answer(code: str, environment: dict[str, str]) -> str:
    """What a Python process prints."""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_mixer_of_someone_elses_stands_in_a_model(tmp_path: Path, generator: torch.Generator) -> None:
    assert ModelConfig.from_json(CONFIG.to_json()) == CONFIG
    assert json.loads(CONFIG.to_json())["layers"][2]["mixer"] == {"groups": 3, "bias": True, "kind": "acme_mean"}
    model = build_model(CONFIG).double().eval()
    assert isinstance(model, LanguageModel) and isinstance(model.layers[0].mixer, Mean)
    save_checkpoint(model, tmp_path / "m.safetensors")
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    assert isinstance(loaded, LanguageModel) and loaded.config == CONFIG
    loaded = loaded.double()
    tokens = torch.randint(0, 11, (3, 9), generator=generator)
    full = loaded(tokens)
    assert largest_difference([*full], model(tokens)) <= 1e-6
    chunks = random_chunks(random_lengths(3, 9, generator), generator)
    assert largest_difference(decode(loaded.forward_cached, loaded.initial_state(3, 9), tokens, chunks), full) <= 1e-12


def test_parts_have_their_defaults_filled_in() -> None:
    parts = CONFIG.parts()
    assert list(parts) == ["layers.0.mixer", "layers.0.feed_forward", "layers.1.mixer", "layers.2.mixer"]
    assert parts["layers.0.mixer"] == MeanConfig(groups=12) and parts["layers.1.mixer"] == HSMConfig(shifts=(2,))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeanConfig(groups=5), r"config.layers\[0\].mixer: groups 5 do not divide the width 12"),
        (MeanConfig(groups=2.5), r"config.layers\[0\].mixer.groups must be of type int"),  # type: ignore[arg-type]
        (MeanConfig(bias="yes"), r"config.layers\[0\].mixer.bias must be of type bool"),  # type: ignore[arg-type]
    ],
)
def test_its_own_checks_and_types_are_held(config: MeanConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, layers=(LayerConfig(config),))


def test_unknown_kinds_are_refused_with_those_that_exist() -> None:
    data: dict[str, Any] = json.loads(CONFIG.to_json())
    data["layers"][0]["mixer"]["kind"] = "mamba"
    with pytest.raises(ConfigError, match=rf"one of {OURS}, .*acme_mean.*'mamba'"):
        ModelConfig.from_dict(data)
    data["layers"][0]["mixer"]["kind"] = ["hsm"]
    with pytest.raises(ConfigError, match=f"must be one of {OURS}"):
        ModelConfig.from_dict(data)


def test_a_configuration_that_nobody_registered_is_refused() -> None:
    @dataclass(frozen=True)
    class Derived(HSMConfig):
        more: int = 0

    with pytest.raises(ConfigError, match=r"config.layers\[0\].mixer is a Derived, which nobody registered"):
        replace(CONFIG, layers=(LayerConfig(Derived()),))


def test_a_feed_forward_network_of_someone_elses() -> None:
    @dataclass(frozen=True)
    class ScaleConfig(FeedForwardConfig):
        by: float = 2.0

    @feed_forward("acme_scale", ScaleConfig)
    class Scale(nn.Module):
        def __init__(self, width: int, config: ScaleConfig) -> None:
            super().__init__()
            self.by = config.by

        def forward(self, x: Tensor) -> Tensor:
            return self.by * x

    config = replace(CONFIG, layers=(LayerConfig(HSMConfig(), ScaleConfig(3.0)),))
    assert ModelConfig.from_json(config.to_json()) == config
    assert build_model(config)(torch.zeros(1, 2, dtype=torch.int64)).shape == (1, 2, 11)


def test_fields_that_were_added_later_are_left_out_at_their_default() -> None:
    @dataclass(frozen=True)
    class GrownConfig(MixerConfig):
        old: int = 1
        new: int | None = added(None)

    GrownConfig.kind = "grown"
    assert GrownConfig().to_data() == {"old": 1, "kind": "grown"}
    assert GrownConfig(new=3).to_data() == {"old": 1, "new": 3, "kind": "grown"}


@dataclass(frozen=True)
class OtherConfig(MixerConfig):
    pass


class PlainConfig(MixerConfig):
    pass


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("acme_mean", OtherConfig, "'acme_mean' belongs to .*MeanConfig: give every kind a name"),
        ("acme_other", MeanConfig, "'acme_mean' belongs to .*MeanConfig"),
        ("acme_other", PlainConfig, "PlainConfig must be a dataclass"),
        ("Acme/Other", OtherConfig, "cannot name a kind"),
    ],
)
def test_registrations_that_contradict_others_are_refused(kind: str, config: type[MixerConfig], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixer(kind, config)(Mean)


def test_a_class_that_is_defined_again_replaces_itself() -> None:
    kinds = Kinds("no.group", "hsm_models.mixers")

    def define() -> type[MixerConfig]:
        @dataclass(frozen=True)
        class AgainConfig(MixerConfig):
            pass

        return AgainConfig

    first, second = define(), define()
    kinds.register("again", first, Mean)
    kinds.register("again", second, Mean)
    assert kinds.config("again") is second and kinds.module(first()) is None and kinds.module(second()) is Mean


def test_an_installed_package_offers_its_kinds(tmp_path: Path) -> None:
    environment = installed(tmp_path, "acme_mean = tests.models.acme_mean", "acme_none = tests.models.missing")
    code = (
        "import sys\n"
        "from hsm_models import ModelConfig\n"
        f"print(ModelConfig.from_json({CONFIG.to_json()!r}).layers[0].mixer)\n"
        "print('tests.models.missing' in sys.modules)\n"
    )
    assert answer(code, environment) == "MeanConfig(groups=None, bias=True)\nFalse"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("acme_mean = tests.models.missing", "cannot be imported: No module named 'tests.models.missing'"),
        ("acme_mean = json", "registers no kind of that name"),
        ("acme_more = json", f"must be one of {OURS}, acme_more, got 'acme_mean'"),
    ],
)
def test_packages_that_do_not_keep_their_word_are_named(entry: str, message: str, tmp_path: Path) -> None:
    code = (
        "from hsm_models import ConfigError, ModelConfig\n"
        "try:\n"
        f"    ModelConfig.from_json({CONFIG.to_json()!r})\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    printed = answer(code, installed(tmp_path, entry))
    assert message in printed and ("the entry point acme_mean" in printed or "config.layers[0].mixer.kind" in printed)
