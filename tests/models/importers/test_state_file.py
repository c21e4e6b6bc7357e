"""Reading files that cannot be trusted."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.models.importers import authors

from hsm_models.errors import CheckpointError
from hsm_models.importers import read_state_file
from hsm_models.importers.state_file import folder_files


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


class DotDict(dict):  # type: ignore[type-arg]
    """Stands in for the authors' dictionary class."""


def test_training_files_and_plain_state_dicts_hold_the_same(tmp_path: Path, generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    torch.save({"epoch": 3, "model_state": state, "args": {"model": "x"}, "stats": [1.0]}, tmp_path / "a.tar")
    torch.save(state, tmp_path / "b.pth")
    torch.save({"model": state, "run_invariants": {"args": {"moe.att.k": 2}}}, tmp_path / "c.pth")
    save_file(state, tmp_path / "d.safetensors")
    torch.save(state, tmp_path / "e.pth", _use_new_zipfile_serialization=False)
    for name in ("a.tar", "b.pth", "c.pth", "d.safetensors", "e.pth"):
        weights = read_state_file(tmp_path / name).weights
        assert set(weights) == set(state) and all(torch.equal(weights[key], state[key]) for key in state)
    assert read_state_file(tmp_path / "a.tar").arguments == {"model": "x"}
    assert read_state_file(tmp_path / "c.pth").arguments == {"moe.att.k": 2}


def test_prefixes_of_compiled_and_parallel_models_are_stripped(tmp_path: Path, generator: torch.Generator) -> None:
    state = authors.taylor_shift_state(generator)
    for index, prefix in enumerate(("_orig_mod.", "module.", "_orig_mod.module.")):
        torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / f"{index}.pth")
        assert set(read_state_file(tmp_path / f"{index}.pth").weights) == set(state)
    torch.save({"module.a": torch.ones(1), "a": torch.ones(1)}, tmp_path / "twice.pth")
    with pytest.raises(CheckpointError, match="holds a twice"):
        read_state_file(tmp_path / "twice.pth")


def test_the_authors_dictionary_class_loads_as_a_plain_dictionary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    import sys
    import types

    module = types.ModuleType("framework.data_structures.dotdict")
    monkeypatch.setattr(DotDict, "__module__", module.__name__)
    module.DotDict = DotDict  # type: ignore[attr-defined]
    for name in ("framework", "framework.data_structures"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    state = authors.switch_head_state(generator)
    torch.save({"model": state, "state": DotDict(iter=7)}, tmp_path / "model-7.pth")
    monkeypatch.undo()
    assert set(read_state_file(tmp_path / "model-7.pth").weights) == set(state)


@pytest.mark.parametrize("form", ["torch", "legacy torch", "plain pickle", "inside a state dict", "inside the options"])
def test_hostile_pickles_are_refused_and_their_code_does_not_run(form: str, tmp_path: Path) -> None:
    target, file = tmp_path / "executed", tmp_path / "model.pth"
    bomb = Bomb(target)
    content: Any = {
        "inside a state dict": {"head.weight": torch.ones(2), "x": bomb},
        "inside the options": {"model_state": {"head.weight": torch.ones(2)}, "args": {"x": bomb}},
    }.get(form, bomb)
    if form == "plain pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form != "legacy torch")
    with pytest.raises(CheckpointError) as caught:
        read_state_file(file)
    assert "was not loaded" in str(caught.value) and "\n" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("kept", [0, 1, 4, 100, 2000, -1, -30])
@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_files_are_refused(kept: int, legacy: bool, tmp_path: Path, generator: torch.Generator) -> None:
    file = tmp_path / "model.pth"
    torch.save(authors.taylor_shift_state(generator), file, _use_new_zipfile_serialization=not legacy)
    whole = file.read_bytes()
    file.write_bytes(whole[:kept])
    with pytest.raises(CheckpointError) as caught:
        read_state_file(file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"hello", b"PK\x03\x04" + bytes(50), b"\x80\x02." + bytes(9), b"{}", bytes(64)])
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_other_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        read_state_file(tmp_path / name)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "nothing.pth", "is not a file"),
        (tmp_path, "holds neither model.safetensors nor pytorch_model.bin"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_state_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state dict"),
        ({}, "holds no state dict"),
        ({"model": {}}, "holds no state dict"),
        ({"a": torch.ones(1), "b": 3}, "b are not tensors"),
        ({"a": torch.tensor([1.0, float("nan")])}, "a has NaN or infinite values"),
        ({"a": torch.tensor([1.0, float("inf")])}, "a has NaN or infinite values"),
        ({"a": torch.ones(1).expand(1 << 40)}, "more than the data behind it"),
        ({"a": torch.eye(3).to_sparse()}, "not a dense tensor"),
    ],
)
def test_contents_that_are_no_weights_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=message):
        read_state_file(tmp_path / "model.pth")


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 16)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in plain.namelist():
            small.writestr(entry, plain.read(entry))
    with pytest.raises(CheckpointError, match="compressed"):
        read_state_file(tmp_path / "small.pth")


def test_pickled_folders_are_read_where_there_are_no_safetensors(tmp_path: Path) -> None:
    """As transformers wrote them: one file, or shards with an index; nothing but tensors is loaded."""
    weights = {"a.weight": torch.randn(2, 3), "b.weight": torch.randn(4)}
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    torch.save(weights, tmp_path / "pytorch_model.bin")
    found = read_state_file(tmp_path)
    assert found.arguments == {"model_type": "x"} and torch.equal(found.weights["b.weight"], weights["b.weight"])
    (tmp_path / "pytorch_model.bin").unlink()
    places = {name: f"pytorch_model-0000{place}-of-00002.bin" for place, name in enumerate(weights, start=1)}
    for name, file in places.items():
        torch.save({name: weights[name]}, tmp_path / file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert set(read_state_file(tmp_path).weights) == set(weights)
    assert [path.name for path in folder_files(tmp_path)] == list(places.values())
    index.write_text(json.dumps({"weight_map": {**places, "c.weight": places["a.weight"]}}))
    with pytest.raises(CheckpointError, match=r"lacks c.weight, which pytorch_model.bin.index.json lists"):
        read_state_file(tmp_path)
    torch.save({"a.weight": print}, tmp_path / places["a.weight"])
    with pytest.raises(CheckpointError, match="was not loaded"):
        read_state_file(tmp_path)
