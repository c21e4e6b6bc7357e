"""Bundles are written whole or not at all, from files that belong together."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file
from tests.exporter.building.hand_made import token_model
from tests.exporter.bundling.conftest import Exported
from tests.exporter.bundling.engines import pretend_engine

import hsm_export
import onnxruntime
from hsm_export.building.result import side_file_path
from hsm_export.bundling import Bundle, bundle, open_bundle, verify_bundle
from hsm_export.bundling.shared_weights import share_weights
from hsm_export.errors import BadInputError, UsageError
from hsm_export.files import sha256
from hsm_models import HSMConfig, LayerConfig, ModelConfig
from hsm_models.checkpoint import build_model, save_checkpoint


def test_contents(language_bundle: Path, exported: Exported) -> None:
    opened = open_bundle(language_bundle)
    manifest = opened.manifest
    assert (manifest.task, manifest.precision) == ("language_model", "fp32")
    assert manifest.tokenizer is not None and manifest.tokenizer.kind == "bytes"
    assert opened.model is not None and sha256(opened.model) == sha256(exported.model)
    assert opened.decode is not None and sha256(opened.decode) == sha256(exported.decode)
    assert manifest.model is not None and manifest.model.outputs[0].shape == ("batch", "length", 256)
    assert manifest.state is not None
    assert [tensor.rollback for tensor in manifest.state.tensors] == ["slots", "position", "position"]
    assert set(manifest.files) == {path.name for path in language_bundle.iterdir()} - {"manifest.json"}
    keys = list(json.loads((language_bundle / "manifest.json").read_text()))
    assert keys == [
        "format", "schema", "hsm_export", "task", "precision", "model", "decode", "engines", "tokenizer", "self_test",
        "files",
    ]  # fmt: skip


def test_self_test_arrays(language_bundle: Path) -> None:
    """Both parts have a call; what lies beyond a row's length is NaN, all else finite unless experts are in doubt."""
    arrays = load_file(language_bundle / "self-test.safetensors")
    assert arrays["model.inputs.tokens"].dtype == np.int64
    assert arrays["model.outputs.logits"].dtype == np.float32
    lengths, logits = arrays["decode.inputs.lengths"], arrays["decode.outputs.logits"]
    assert arrays["decode.inputs.position"].tolist() == [0, 0]
    assert logits.shape == (*arrays["decode.inputs.tokens"].shape, 256)
    assert lengths[1] < logits.shape[1], "the second row ought to be shorter"
    assert np.isnan(logits[1, lengths[1] :]).all()
    assert np.isfinite(logits[0]).mean() > 0.5


def test_last_logits(exported: Exported, tmp_path: Path) -> None:
    decode = tmp_path / "last.onnx"
    hsm_export.export(exported.checkpoint, output=decode, decode=True, last_logits=True)
    result = bundle(output=tmp_path / "last.hsm", decode=decode)
    assert result.parts == ("decode",)
    logits = load_file(tmp_path / "last.hsm" / "self-test.safetensors")["decode.outputs.logits"]
    assert logits.shape[1:] == (1, 256)
    assert np.isfinite(logits).any()


def test_external_data_keeps_its_name(tmp_path: Path) -> None:
    model = token_model(tmp_path / "big.onnx", external=True)
    bundle(model, tmp_path / "big.hsm")
    assert "big.onnx.data" in open_bundle(tmp_path / "big.hsm").manifest.files


def test_default_output(tmp_path: Path) -> None:
    assert bundle(token_model(tmp_path / "a.onnx")).bundle == tmp_path / "a.hsm"


def test_bfloat16(tmp_path: Path) -> None:
    """A hand-made model whose logits are bfloat16: stored in float32, with bfloat16's tolerance."""
    result = bundle(token_model(tmp_path / "a.onnx", precision="bf16"), tmp_path / "a.hsm")
    assert result.precision == "bf16"
    assert load_file(tmp_path / "a.hsm" / "self-test.safetensors")["model.outputs.logits"].dtype == np.float32
    assert result.tolerances["model.logits"] > 1e-3


def test_graph_for_cpus(tmp_path: Path) -> None:
    """Beside a bfloat16 model lies an equal one that ONNX Runtime's CPU provider loads as it is."""
    model = token_model(tmp_path / "a.onnx", precision="bf16")
    bundle(model, tmp_path / "a.hsm")
    opened = open_bundle(tmp_path / "a.hsm")
    assert opened.manifest.model is not None and opened.manifest.model.cpu_file == "model.cpu.onnx"
    assert opened.model is not None and sha256(opened.model) == sha256(model)
    session = onnxruntime.InferenceSession(str(opened.file("model.cpu.onnx")), providers=["CPUExecutionProvider"])
    assert [output.type for output in session.get_outputs()] == ["tensor(bfloat16)"]


def test_graph_for_cpus_only_where_needed(good: Path) -> None:
    entry = open_bundle(good).manifest.model
    assert entry is not None and entry.cpu_file is None


def test_graph_for_cpus_shares_weights(tmp_path: Path) -> None:
    bundle(token_model(tmp_path / "a.onnx", precision="bf16", external=True), tmp_path / "a.hsm")
    files = open_bundle(tmp_path / "a.hsm").manifest.files
    assert set(files) == {"model.onnx", "model.cpu.onnx", "a.onnx.data", "self-test.safetensors"}
    (stored,) = (
        tensor
        for tensor in onnx.load(tmp_path / "a.hsm" / "model.cpu.onnx", load_external_data=False).graph.initializer
        if tensor.name == "embedding"
    )
    assert {"location": "a.onnx.data"}.items() <= {item.key: item.value for item in stored.external_data}.items()


# Engines


def test_engines(exported: Exported, tmp_path: Path) -> None:
    engines = [
        pretend_engine(tmp_path / "a.engine", exported.model),
        pretend_engine(
            tmp_path / "b.engine",
            exported.decode,
            target="tensorrt-rtx",
            target_version="1.7.1.116",
            architectures=["sm86", "sm89"],
            plugins=None,
        ),
        pretend_engine(tmp_path / "c.engine", exported.model, hardware_compatibility="ampere+"),
        pretend_engine(tmp_path / "d.plan", exported.model, gpu=None),
    ]
    bundle(exported.model, tmp_path / "lm.hsm", decode=exported.decode, engines=engines)
    entries = {entry.file: entry for entry in open_bundle(tmp_path / "lm.hsm").manifest.engines}
    assert list(entries) == [f"engines/{name}.engine" for name in "abcd"]
    assert [entry.of for entry in entries.values()] == ["model", "decode", "model", "model"]
    assert [entry.architectures for entry in entries.values()] == [("sm86",), ("sm86", "sm89"), ("sm80+",), ()]
    assert [entry.plugins for entry in entries.values()] == [True, False, True, True]
    assert entries["engines/a.engine"].profiles[0]["length"].max == 32


def test_engine_of_another_file(exported: Exported, tmp_path: Path) -> None:
    engine = pretend_engine(tmp_path / "a.engine", exported.decode)
    with pytest.raises(BadInputError, match="was built from another file"):
        bundle(exported.model, tmp_path / "lm.hsm", engines=[engine])
    assert not (tmp_path / "lm.hsm").exists()


def test_engine_that_was_changed(exported: Exported, tmp_path: Path) -> None:
    engine = pretend_engine(tmp_path / "a.engine", exported.model)
    engine.write_bytes(b"another")
    with pytest.raises(BadInputError, match="not the engine that its side file describes"):
        bundle(exported.model, tmp_path / "lm.hsm", engines=[engine])


def test_engine_without_side_file(exported: Exported, tmp_path: Path) -> None:
    engine = pretend_engine(tmp_path / "a.engine", exported.model)
    side_file_path(engine).unlink()
    with pytest.raises(BadInputError, match="has no side file"):
        bundle(exported.model, tmp_path / "lm.hsm", engines=[engine])


def test_engines_of_one_name(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    engines = [pretend_engine(folder / "a.engine", exported.model) for folder in (tmp_path, tmp_path / "other")]
    with pytest.raises(BadInputError, match=r"two engines are called a\.engine"):
        bundle(exported.model, tmp_path / "lm.hsm", engines=engines)


def test_engine_without_weights(exported: Exported, tmp_path: Path) -> None:
    engine = pretend_engine(tmp_path / "a.engine", exported.model, strip_weights=True)
    with pytest.raises(BadInputError, match="holds no weights"):
        bundle(exported.model, tmp_path / "lm.hsm", engines=[engine])


# Files that do not belong together


def test_decoding_file_in_the_models_place(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a decoding file"):
        bundle(exported.decode, tmp_path / "lm.hsm")


def test_model_in_the_decoding_files_place(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no state to decode with"):
        bundle(output=tmp_path / "lm.hsm", decode=exported.model)


def test_different_precisions(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported.model)
    next(entry for entry in model.metadata_props if entry.key == "hsm_export.precision").value = "fp16"
    onnx.save(model, tmp_path / "half.onnx")
    with pytest.raises(BadInputError, match="different precisions"):
        bundle(tmp_path / "half.onnx", tmp_path / "lm.hsm", decode=exported.decode)


def test_nothing_to_bundle(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to bundle"):
        bundle(output=tmp_path / "lm.hsm")


def test_tokenizer_of_other_ids(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the 256 bytes"):
        bundle(token_model(tmp_path / "a.onnx"), tmp_path / "a.hsm", tokenizer="bytes")


def test_weights_in_a_folder(tmp_path: Path) -> None:
    model = token_model(tmp_path / "a.onnx", external=True)
    (tmp_path / "weights").mkdir()
    (tmp_path / "a.onnx.data").rename(tmp_path / "weights" / "a.data")
    loaded = onnx.load(model, load_external_data=False)
    for tensor in loaded.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "weights/a.data"
    model.write_bytes(loaded.SerializeToString())
    with pytest.raises(BadInputError, match="keeps its weights in a folder"):
        bundle(model, tmp_path / "a.hsm")


# Places


def test_nothing_but_bundles_is_replaced(tmp_path: Path) -> None:
    model = token_model(tmp_path / "a.onnx")
    (tmp_path / "a.hsm").mkdir()
    (tmp_path / "a.hsm" / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(BadInputError, match="is not a bundle"):
            bundle(model, force=force)
    assert (tmp_path / "a.hsm" / "thesis.tex").read_text() == "years of work"


def test_force(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "a.hsm")
    model = token_model(tmp_path / "a.onnx", precision="fp16")
    with pytest.raises(BadInputError, match="exists already"):
        bundle(model)
    assert bundle(model, force=True).precision == "fp16"
    assert open_bundle(tmp_path / "a.hsm").manifest.precision == "fp16"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.hsm", "a.onnx"]


def test_link_is_not_replaced(good: Path, tmp_path: Path) -> None:
    (tmp_path / "a.hsm").symlink_to(good)
    with pytest.raises(BadInputError, match="is not a bundle"):
        bundle(token_model(tmp_path / "a.onnx"), force=True)


def test_failure_leaves_the_old_bundle(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between moving the old bundle away and the new one to its place: the old one is put back."""
    shutil.copytree(good, tmp_path / "a.hsm")
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "a.hsm" and Path(source).parent.name != "replaced":
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr("os.rename", fail)
    with pytest.raises(KeyboardInterrupt):
        bundle(token_model(tmp_path / "a.onnx"), force=True)
    assert isinstance(open_bundle(tmp_path / "a.hsm"), Bundle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.hsm", "a.onnx"]


def test_hugging_face_tokenizer(exported: Exported, tmp_path: Path) -> None:
    tokenizer = tmp_path / "my-tokenizer.json"
    vocabulary = {chr(97 + index): index for index in range(26)}
    tokenizer.write_text(
        json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"}})
    )
    bundle(exported.model, tmp_path / "lm.hsm", tokenizer=tokenizer)
    opened = open_bundle(tmp_path / "lm.hsm")
    assert opened.manifest.tokenizer is not None and opened.manifest.tokenizer.kind == "huggingface"
    assert opened.file("tokenizer.json").read_bytes() == tokenizer.read_bytes()


def test_characters(exported: Exported, tmp_path: Path) -> None:
    table = tmp_path / "mine.json"
    table.write_text(json.dumps({"characters": "abc é"}))
    bundle(exported.model, tmp_path / "lm.hsm", tokenizer=table)
    opened = open_bundle(tmp_path / "lm.hsm")
    assert opened.manifest.tokenizer is not None and opened.manifest.tokenizer.kind == "characters"
    assert json.loads(opened.file("characters.json").read_bytes()) == {"characters": "abc é"}


def test_weights_of_both_forms_are_there_once(exported: Exported, tmp_path: Path) -> None:
    """What only the decoding file holds stays, packed; with an engine of it, the file stays as it was built from."""
    whole = hsm_export.export(exported.checkpoint, output=tmp_path / "m.onnx", external_data=True)
    step = hsm_export.export(exported.checkpoint, output=tmp_path / "d.onnx", decode=True, external_data=True)
    assert whole.external_data is not None and step.external_data is not None
    loaded = onnx.load(tmp_path / "d.onnx", load_external_data=False)
    largest = max(
        (tensor for tensor in loaded.graph.initializer if tensor.external_data),
        key=lambda tensor: int({entry.key: entry.value for entry in tensor.external_data}["length"]),
    )
    result = bundle(tmp_path / "m.onnx", tmp_path / "both.hsm", decode=tmp_path / "d.onnx")
    folder = tmp_path / "both.hsm"
    left = (folder / "d.onnx.data").stat().st_size if (folder / "d.onnx.data").exists() else 0
    assert left < 0.1 * step.external_data.stat().st_size
    shared = onnx.load(folder / "decode.onnx", load_external_data=False)
    (entries,) = (tensor.external_data for tensor in shared.graph.initializer if tensor.name == largest.name)
    assert {entry.key: entry.value for entry in entries}["location"] == "m.onnx.data"
    before, after = onnx.load(tmp_path / "d.onnx"), onnx.load(folder / "decode.onnx")
    for one, other in zip(before.graph.initializer, after.graph.initializer, strict=True):
        assert (one.name, one.raw_data) == (other.name, other.raw_data)
    assert result.files == len(list(folder.iterdir()))
    assert verify_bundle(folder, self_test="ort").checks

    other = tmp_path / "other"
    other.mkdir()
    step_file = other / "d.onnx"
    hsm_export.export(_another_checkpoint(other), output=step_file, decode=True, external_data=True)
    assert share_weights(_copied(tmp_path / "m.onnx", other), [step_file]) < 0.1 * left + 4096

    engine = pretend_engine(tmp_path / "a.engine", tmp_path / "d.onnx")
    bundle(tmp_path / "m.onnx", tmp_path / "engine.hsm", decode=tmp_path / "d.onnx", engines=[engine])
    assert sha256(tmp_path / "engine.hsm" / "decode.onnx") == sha256(tmp_path / "d.onnx")


def _another_checkpoint(folder: Path) -> Path:
    torch.manual_seed(9)
    layers = (LayerConfig(HSMConfig(shifts=(1, 3))),)
    save_checkpoint(build_model(ModelConfig("language_model", 16, layers, vocab_size=256)), folder / "o.safetensors")
    return folder / "o.safetensors"


def _copied(model: Path, folder: Path) -> Path:
    for path in (model, model.with_name(f"{model.name}.data")):
        shutil.copyfile(path, folder / path.name)
    return folder / model.name


def rwkv_vocabulary(count: int) -> str:
    """Return a vocabulary of so many tokens as RWKV's authors write it."""
    return "".join(f"{index} {chr(0x4E00 + index)!r} 3\n" for index in range(1, count))


def test_a_tokenizer_beside_the_model_is_taken(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = build_model(ModelConfig("language_model", 16, (LayerConfig(HSMConfig(shifts=(1,))),), vocab_size=300))
    (tmp_path / "lm").mkdir()
    save_checkpoint(model, tmp_path / "lm" / "own")
    hsm_export.export(tmp_path / "lm" / "own", output=tmp_path / "lm" / "m.onnx")
    (tmp_path / "lm" / "own" / "rwkv_vocab_v1.txt").write_text(rwkv_vocabulary(301))
    (tmp_path / "lm" / "m.tokenizer.txt").write_text(rwkv_vocabulary(300))

    result = bundle(tmp_path / "lm" / "m.onnx", tmp_path / "a.hsm", against=tmp_path / "lm" / "own")
    assert result.tokenizer is None and "301 token ids, but the model only 300" in result.notes[0]
    result = bundle(tmp_path / "lm" / "m.onnx", tmp_path / "b.hsm")
    assert result.tokenizer == "rwkv" and "m.tokenizer.txt was taken as the tokenizer" in result.notes[0]
    assert open_bundle(tmp_path / "b.hsm").file("rwkv_vocab.txt").read_text() == rwkv_vocabulary(300)


def test_sentencepiece(exported: Exported, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    model = Path(__file__).parents[2] / "plugins" / "data" / "sentencepiece.model"
    with pytest.raises(UsageError, match="the tokenizer has 340 token ids, but the model only 256"):
        bundle(exported.model, tmp_path / "lm.hsm", tokenizer=model)


def test_no_tokenizer(exported: Exported, tmp_path: Path) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("no JSON")
    with pytest.raises(BadInputError, match=r"not a Hugging Face tokenizer\.json"):
        bundle(exported.model, tmp_path / "lm.hsm", tokenizer=broken)


def test_engine_that_was_really_built(tmp_path: Path) -> None:
    """The side file that `build` writes is the one that is read here."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    model = token_model(tmp_path / "m.onnx")
    built = hsm_export.build(model, architectures="sm86,sm89", profiles=[{"batch": "1:2:4", "length": "1:8:16"}])
    bundle(model, tmp_path / "m.hsm", engines=[built.engine])
    (entry,) = open_bundle(tmp_path / "m.hsm").manifest.engines
    assert (entry.target, entry.version) == ("tensorrt-rtx", built.target_version)
    assert entry.architectures == ("sm86", "sm89")
    assert not entry.plugins
    assert entry.profiles[0]["length"].opt == 8
    assert hsm_export.verify_bundle(tmp_path / "m.hsm").engines == {"engines/m.engine": ("sm86", "sm89")}
