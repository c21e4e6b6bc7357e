"""Checkpoints: round trips in both forms, and a refusal for everything damaged, hostile or contradictory."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.examples import LANGUAGE_MODELS, MODELS

from hsm_models import LayerConfig, MLPConfig, ModelConfig, SoftmaxConfig, checkpoint
from hsm_models.checkpoint import (
    build_model,
    fingerprint,
    load_checkpoint,
    read_config,
    read_metadata,
    resolve,
    save_checkpoint,
)
from hsm_models.errors import CheckpointError, ConfigError
from hsm_models.mixers import HSM


@pytest.fixture(params=["model.safetensors", "folder"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "deep" / request.param


@pytest.mark.parametrize("name", sorted(MODELS))
def test_round_trip(name: str, target: Path) -> None:
    model = build_model(MODELS[name])
    save_checkpoint(model, target, extra={"loss": "1.25"})
    loaded = load_checkpoint(target)
    assert loaded.config == read_config(target) == model.config
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    assert read_metadata(target)["loss"] == "1.25"
    want = model.state_dict()
    assert list(loaded.state_dict()) == list(want)
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, want[key])


def test_expert_weights_of_earlier_versions_are_accepted(tmp_path: Path) -> None:
    """They had an axis for the one head of each expert."""
    path = tmp_path / "m.safetensors"
    model = build_model(LANGUAGE_MODELS["hybrid"])
    save_checkpoint(model, path)
    experts = {f"layers.3.feed_forward.{part}.weight" for part in ("up", "down")}
    weights = {name: w.unsqueeze(1) if name in experts else w for name, w in load_file(path).items()}
    save_file(weights, path, metadata=read_metadata(path))
    for name, value in load_checkpoint(path).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_only_the_checkpoint_is_left_behind(tmp_path: Path) -> None:
    model = build_model(LANGUAGE_MODELS["hsm"])
    for _ in range(2):  # the second time over the first
        save_checkpoint(model, tmp_path / "a.safetensors")
        save_checkpoint(model, tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b"]
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["config.json", "model.safetensors"]


def test_a_half_precision_model_loads_as_float32(tmp_path: Path) -> None:
    model = build_model(LANGUAGE_MODELS["hybrid"]).half()
    save_checkpoint(model, tmp_path / "half.safetensors")
    loaded = load_checkpoint(tmp_path / "half.safetensors")
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key].float())


def test_fingerprint_depends_on_content_only(tmp_path: Path) -> None:
    model = build_model(LANGUAGE_MODELS["hsm"])
    save_checkpoint(model, tmp_path / "a.safetensors", extra={"note": "first"})
    save_checkpoint(model, tmp_path / "b")
    first = fingerprint(tmp_path / "a.safetensors")
    assert first == fingerprint(tmp_path / "b")
    assert len(first) == 64
    with torch.no_grad():
        model.embedding.weight[0, 0] += 1
    save_checkpoint(model, tmp_path / "b")
    assert fingerprint(tmp_path / "b") != first


def test_loaded_weights_can_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    save_checkpoint(build_model(LANGUAGE_MODELS["hsm"]), tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    with torch.no_grad():
        load_checkpoint(tmp_path / "a.safetensors").embedding.weight.zero_()
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_resolve_knows_the_zoo(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path
    with pytest.raises(CheckpointError, match="the zoo has no model 'nobody'; it has hsm-lm"):
        resolve("zoo:nobody")


def test_missing(tmp_path: Path) -> None:
    for function in (load_checkpoint, read_config, fingerprint, read_metadata):
        with pytest.raises(CheckpointError, match="there is no checkpoint at"):
            function(tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_checkpoint(tmp_path)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(build_model(LANGUAGE_MODELS["hsm"]), tmp_path / "saved.safetensors")
    return tmp_path / "saved.safetensors"


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_truncated(saved: Path, kept: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", [b"\xff" * 64, b"hello, this is text", b"\x00" * 4096])
def test_not_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_checkpoint(tmp_path / "bad.safetensors")


class Bomb:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.tar"])
def test_pickles_are_refused_unread(tmp_path: Path, name: str) -> None:
    proof = tmp_path / "executed"
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(proof)))
    with pytest.raises(CheckpointError, match="hsm-export import"):
        load_checkpoint(tmp_path / name)
    assert not proof.exists()


def test_headers_of_every_length_are_told_from_pickles(tmp_path: Path) -> None:
    model = build_model(LANGUAGE_MODELS["taylor_shift"])
    for padding in range(0, 260, 8):  # safetensors pads its header to 8 bytes; a pickle starts with byte 128
        save_checkpoint(model, tmp_path / "a.safetensors", extra={"note": "x" * padding})
        assert read_config(tmp_path / "a.safetensors") == model.config


def test_torch_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="hsm-export import"):
        load_checkpoint(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"import pytorch_model\.bin with `hsm-export import`"):
        load_checkpoint(tmp_path)


def rewrite(path: Path, config: ModelConfig | str | None, **changes: torch.Tensor | None) -> None:
    """Save a checkpoint's file again with another configuration, or with tensors replaced, added or removed."""
    tensors = load_file(path)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name.replace("__", ".")]
        else:
            tensors[name.replace("__", ".")] = tensor
    text = config.to_json() if isinstance(config, ModelConfig) else config
    save_file(tensors, path, metadata=None if text is None else {"config": text})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(saved: Path, value: float) -> None:
    config = read_config(saved)
    weight = torch.zeros(11, 16)
    weight[3, 5] = value
    rewrite(saved, config, embedding__weight=weight)
    with pytest.raises(CheckpointError, match=r"embedding\.weight holds NaN or infinite"):
        load_checkpoint(saved)


def test_double_weights_beyond_float32(saved: Path) -> None:
    rewrite(saved, read_config(saved), embedding__weight=torch.full((11, 16), 1e300, dtype=torch.float64))
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        load_checkpoint(saved)


def test_integer_weights(saved: Path) -> None:
    rewrite(saved, read_config(saved), embedding__weight=torch.zeros(11, 16, dtype=torch.int64))
    with pytest.raises(CheckpointError, match="must be floating point"):
        load_checkpoint(saved)


def test_missing_unknown_and_misshapen_weights(saved: Path) -> None:
    rewrite(saved, read_config(saved), norm__bias=None, extra=torch.zeros(1), norm__weight=torch.zeros(3))
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(saved)
    for part in ("norm.bias is missing", "extra is unknown", "norm.weight has shape [3] instead of [16]"):
        assert part in str(refusal.value)


def test_no_configuration(saved: Path) -> None:
    rewrite(saved, None)
    with pytest.raises(CheckpointError, match="no model configuration"):
        load_checkpoint(saved)


def test_bad_configuration(saved: Path) -> None:
    data = json.loads(read_config(saved).to_json())
    rewrite(saved, json.dumps(data | {"surprise": 1}))
    with pytest.raises(ConfigError, match="unknown fields surprise"):
        load_checkpoint(saved)


def test_a_user_written_mixing_cannot_be_rebuilt(saved: Path) -> None:
    data = json.loads(read_config(saved).to_json())
    data["layers"][0]["mixer"]["mixing"] = "custom"
    rewrite(saved, json.dumps(data))
    with pytest.raises(ConfigError, match="your_module"):
        load_checkpoint(saved)


@pytest.mark.parametrize("width", [1 << 20, (1 << 31) - 2])
def test_absurd_sizes_cost_nothing(saved: Path, width: int) -> None:
    layers = tuple(LayerConfig(SoftmaxConfig(heads=2), MLPConfig(width)) for _ in range(4))
    rewrite(saved, dataclasses.replace(read_config(saved), width=width, layers=layers))
    with pytest.raises(CheckpointError, match=r"contradict the configuration|impossible sizes"):
        load_checkpoint(saved)


def test_more_layers_than_tensors(saved: Path) -> None:
    layers = (LayerConfig(SoftmaxConfig(heads=2)),) * 1000
    rewrite(saved, dataclasses.replace(read_config(saved), layers=layers))
    with pytest.raises(CheckpointError, match="1000 layers"):
        load_checkpoint(saved)


def test_folder_without_or_with_a_bad_configuration(tmp_path: Path) -> None:
    save_checkpoint(build_model(LANGUAGE_MODELS["hsm"]), tmp_path / "folder")
    config_file = tmp_path / "folder" / "config.json"
    config_file.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(tmp_path / "folder")
    config_file.write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_checkpoint(tmp_path / "folder")
    config_file.unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_checkpoint(tmp_path / "folder")


def test_saving_refuses_what_loading_would(tmp_path: Path) -> None:
    model = build_model(LANGUAGE_MODELS["hsm"])
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"norm\.weight holds NaN"):
        save_checkpoint(model, tmp_path / "nan.safetensors")
    custom = build_model(LANGUAGE_MODELS["hsm"])
    custom.layers[0].mixer = HSM(16, mixing=torch.nn.Bilinear(16, 16, 16))
    with pytest.raises(CheckpointError, match="contradict the configuration"):
        save_checkpoint(custom, tmp_path / "custom.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def disk_full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", disk_full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(build_model(LANGUAGE_MODELS["hsm"]), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.slow
def test_loading_needs_the_size_of_the_weights_once(tmp_path: Path) -> None:
    config = ModelConfig(
        task="language_model",
        width=1024,
        vocab_size=8000,
        layers=(LayerConfig(SoftmaxConfig(heads=8), MLPConfig(4096)),) * 12,
    )
    path = tmp_path / "large.safetensors"
    save_checkpoint(build_model(config), path)
    code = (
        "import resource, sys, hsm_models.checkpoint as c\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "c.load_checkpoint(sys.argv[1])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.2 * path.stat().st_size
