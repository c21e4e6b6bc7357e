"""Hostile bundles, written from a good one: what both readers, Python's and C++'s, must refuse with one sentence.

    python -m tests.exporter.bundling.hostile GOOD.hsm FOLDER

writes FOLDER/accepted/NAME.hsm, each of which must be taken, and FOLDER/refused/NAME.hsm, which must be refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
ACCEPTED, REFUSED = "accepted", "refused"

Case = Callable[[Path], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Register a function that spoils the bundle in a folder; its name is the case's."""
    CASES[function.__name__.strip("_").replace("_", "-")] = function
    return function


def write_all(good: Path, folder: Path) -> None:
    """Write the bundles to be taken and those to be refused into a folder."""
    for kind, cases in ((ACCEPTED, HARMLESS), (REFUSED, CASES)):
        (folder / kind).mkdir(parents=True)
        for name, change in cases.items():
            write(good, folder / kind / f"{name}.hsm", change)


def write(good: Path, target: Path, change: Case) -> Path:
    """Write one bundle; returns its folder."""
    shutil.copytree(good, target, symlinks=True)
    change(target)
    return target


def read(bundle: Path) -> dict[str, Any]:
    """Return a manifest."""
    data: dict[str, Any] = json.loads((bundle / MANIFEST).read_text())
    return data


def rewrite(bundle: Path, manifest: Any) -> None:
    """Write a manifest."""
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest."""
    manifest = read(bundle)
    change(manifest)
    rewrite(bundle, manifest)


def add(bundle: Path, name: str, data: bytes) -> None:
    """Add a file together with a right entry in the manifest."""
    path = bundle / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(bundle, lambda manifest: manifest["files"].update({name: entry}))


def rename_entry(bundle: Path, old: str, new: str) -> None:
    """Give a file another name in the manifest."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][new] = manifest["files"].pop(old)

    edit(bundle, change)


# Paths that lead out, or are none


@case
def path_traversal(bundle: Path) -> None:
    outside = bundle.parent / "outside.onnx"
    shutil.copyfile(bundle / "model.onnx", outside)
    rename_entry(bundle, "model.onnx", "../outside.onnx")
    edit(bundle, lambda manifest: manifest["model"].update(file="../outside.onnx"))


@case
def path_traversal_inside_engines(bundle: Path) -> None:
    rename_entry(bundle, "model.onnx", "engines/../model.onnx")


@case
def absolute_path(bundle: Path) -> None:
    rename_entry(bundle, "model.onnx", str((bundle / "model.onnx").resolve()))
    edit(bundle, lambda manifest: manifest["model"].update(file=str((bundle / "model.onnx").resolve())))


@case
def backslash_path(bundle: Path) -> None:
    rename_entry(bundle, "model.onnx", "..\\model.onnx")


@case
def current_folder_path(bundle: Path) -> None:
    rename_entry(bundle, "model.onnx", "./model.onnx")


@case
def empty_file_name(bundle: Path) -> None:
    add(bundle, "weights.data", b"weights")
    rename_entry(bundle, "weights.data", "")


@case
def zero_byte_in_a_name(bundle: Path) -> None:
    add(bundle, "weights.data", b"weights")
    rename_entry(bundle, "weights.data", "weights.data\0.txt")


@case
def hidden_file(bundle: Path) -> None:
    add(bundle, ".weights", b"weights")


@case
def too_long_file_name(bundle: Path) -> None:
    add(bundle, "w" * 200, b"weights")


@case
def manifest_lists_itself(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"].update({MANIFEST: {"bytes": 1, "sha256": "0" * 64}}))


# Files that are not plain, not listed, or not there


@case
def linked_model(bundle: Path) -> None:
    outside = bundle.parent / "linked-outside.onnx"
    shutil.move(bundle / "model.onnx", outside)
    (bundle / "model.onnx").symlink_to(outside)


@case
def link_inside(bundle: Path) -> None:
    (bundle / "model.onnx").rename(bundle / "weights.data")
    (bundle / "model.onnx").symlink_to("weights.data")


@case
def linked_manifest(bundle: Path) -> None:
    outside = bundle.parent / "linked-manifest.json"
    shutil.move(bundle / MANIFEST, outside)
    (bundle / MANIFEST).symlink_to(outside)


@case
def linked_engines_folder(bundle: Path) -> None:
    outside = bundle.parent / "linked-engines"
    outside.mkdir()
    (bundle / "engines").symlink_to(outside)


@case
def engines_is_a_file(bundle: Path) -> None:
    (bundle / "engines").write_bytes(b"no folder")


@case
def pipe_instead_of_a_file(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")


@case
def pipe_instead_of_the_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    os.mkfifo(bundle / MANIFEST)


@case
def folder_instead_of_a_file(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").mkdir()


@case
def unlisted_file(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("not in the manifest")


@case
def unlisted_file_that_steers_the_terminal(bundle: Path) -> None:
    (bundle / "\x1b[2J\nnotes").write_text("not in the manifest")


@case
def unlisted_engine(bundle: Path) -> None:
    (bundle / "engines").mkdir(exist_ok=True)
    (bundle / "engines" / "extra.engine").write_bytes(b"engine")


@case
def unlisted_folder(bundle: Path) -> None:
    (bundle / "weights").mkdir()


@case
def missing_model(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()


@case
def missing_self_test(bundle: Path) -> None:
    (bundle / "self-test.safetensors").unlink()


@case
def missing_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()


@case
def empty_folder(bundle: Path) -> None:
    shutil.rmtree(bundle)
    bundle.mkdir()


# Contents that were changed


@case
def truncated_model(bundle: Path) -> None:
    os.truncate(bundle / "model.onnx", (bundle / "model.onnx").stat().st_size // 2)


@case
def empty_model(bundle: Path) -> None:
    os.truncate(bundle / "model.onnx", 0)


@case
def longer_model(bundle: Path) -> None:
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"\0")


@case
def changed_byte(bundle: Path) -> None:
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(data)


@case
def swapped_files(bundle: Path) -> None:
    files = read(bundle)["files"]
    files["model.onnx"], files["self-test.safetensors"] = files["self-test.safetensors"], files["model.onnx"]
    edit(bundle, lambda manifest: manifest.update(files=files))


@case
def wrong_size(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"]["model.onnx"].update(bytes=1))


@case
def negative_size(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"]["model.onnx"].update(bytes=-1))


@case
def huge_size(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"]["model.onnx"].update(bytes=2**70))


@case
def fractional_size(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"]["model.onnx"].update(bytes=1.5))


@case
def wrong_sum(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"]["model.onnx"].update(sha256="0" * 64))


@case
def short_sum(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"]["model.onnx"].update(sha256="0" * 40))


@case
def sum_is_no_text(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"]["model.onnx"].update(sha256=7))


# Shared libraries


@case
def shared_library(bundle: Path) -> None:
    add(bundle, "libevil.so", b"not even ELF")


@case
def versioned_shared_library(bundle: Path) -> None:
    add(bundle, "libevil.so.1.2", b"not even ELF")


@case
def windows_library(bundle: Path) -> None:
    add(bundle, "evil.DLL", b"MZ")


@case
def shared_library_by_another_name(bundle: Path) -> None:
    add(bundle, "weights.data", b"\x7fELF\x02\x01\x01" + bytes(57))


@case
def shared_library_as_an_engine(bundle: Path) -> None:
    with_engine(bundle, b"\x7fELF\x02\x01\x01" + bytes(57))


# Engines


def with_engine(bundle: Path, data: bytes = b"engine", **changes: Any) -> None:
    """Add an engine with its side file, described rightly but for the changes."""
    entry = {
        "file": "engines/a.engine",
        "of": "model",
        "target": "tensorrt",
        "version": "10.14.1",
        "architectures": ["sm86"],
        "plugins": True,
        "embedded_plugins": False,
        "profiles": [{"batch": {"min": 1, "opt": 1, "max": 8}}],
    }
    add(bundle, "engines/a.engine", data)
    add(bundle, "engines/a.engine.json", b"{}")
    edit(bundle, lambda manifest: manifest["engines"].append({**entry, **changes}))


@case
def engine_without_side_file(bundle: Path) -> None:
    with_engine(bundle)
    (bundle / "engines" / "a.engine.json").unlink()
    edit(bundle, lambda manifest: manifest["files"].pop("engines/a.engine.json"))


@case
def engine_outside_its_folder(bundle: Path) -> None:
    with_engine(bundle, file="model.onnx")


@case
def engine_that_is_not_listed(bundle: Path) -> None:
    with_engine(bundle, file="engines/b.engine")


@case
def engine_of_nothing(bundle: Path) -> None:
    with_engine(bundle, of="training")


@case
def engine_of_a_missing_part(bundle: Path) -> None:
    with_engine(bundle, of="decode")
    edit(bundle, lambda manifest: manifest.update(decode=None))


@case
def engine_of_unknown_target(bundle: Path) -> None:
    with_engine(bundle, target="openvino")


@case
def engine_of_strange_version(bundle: Path) -> None:
    with_engine(bundle, version="10; rm -rf /")


@case
def engine_of_strange_architecture(bundle: Path) -> None:
    with_engine(bundle, architectures=["sm86/../.."])


@case
def engine_twice(bundle: Path) -> None:
    with_engine(bundle)
    edit(bundle, lambda manifest: manifest["engines"].append(manifest["engines"][0]))


@case
def engine_whose_profile_shrinks(bundle: Path) -> None:
    with_engine(bundle, profiles=[{"batch": {"min": 8, "opt": 4, "max": 1}}])


@case
def engine_with_embedded_plugins_and_none(bundle: Path) -> None:
    with_engine(bundle, plugins=False, embedded_plugins=True)


@case
def engine_flag_is_a_number(bundle: Path) -> None:
    with_engine(bundle, plugins=1)


# Manifests that are not right


@case
def not_json(bundle: Path) -> None:
    (bundle / MANIFEST).write_text("bundle")


@case
def empty_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).write_text("")


@case
def truncated_manifest(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(text[: len(text) // 2])


@case
def text_after_the_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).write_text((bundle / MANIFEST).read_text() + "{}")


@case
def not_utf8(bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes().replace(b"hsm-bundle", b"hsm-bundle\xff", 1))


@case
def list_instead_of_an_object(bundle: Path) -> None:
    rewrite(bundle, [read(bundle)])


@case
def too_deep(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text().rstrip().removesuffix("}")
    (bundle / MANIFEST).write_text(text + ', "deep": ' + "[" * 100_000 + "]" * 100_000 + "}")


@case
def deeper_than_32_levels(bundle: Path) -> None:
    nested: Any = 1
    for _ in range(40):
        nested = [nested]
    edit(bundle, lambda manifest: manifest.update(tokenizer=nested))


@case
def too_large(bundle: Path) -> None:
    with (bundle / MANIFEST).open("a") as file:
        file.write(" " * (17 * 1024 * 1024))


@case
def name_twice(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text().strip().removesuffix("}")
    (bundle / MANIFEST).write_text(text + ', "precision": "fp16"}')


@case
def file_twice(bundle: Path) -> None:
    text = json.dumps(read(bundle))
    entry = json.dumps(read(bundle)["files"]["model.onnx"])
    (bundle / MANIFEST).write_text(text.replace('"files": {', '"files": {"model.onnx": ' + entry + ", ", 1))


@case
def not_a_number(bundle: Path) -> None:
    text = json.dumps(read(bundle))
    value = json.dumps(read(bundle)["self_test"]["tolerances"]["model.logits"])
    (bundle / MANIFEST).write_text(text.replace(value, "NaN", 1))


@case
def other_format(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(format="zip"))


@case
def newer_schema(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(schema=2))


@case
def schema_is_a_text(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(schema="1"))


@case
def schema_is_true(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(schema=True))


@case
def unknown_field(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(library="libevil.so"))


@case
def unknown_field_inside(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"].update(url="http://example.com"))


@case
def unknown_field_that_steers_the_terminal(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update({"\x1b[2J\nerror: nothing is wrong": 1}))


@case
def unknown_field_without_end(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update({"x" * 1_000_000: 1}))


@case
def schema_without_end(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(schema="1" * 1_000_000))


@case
def missing_field(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.pop("engines"))


@case
def missing_field_inside(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"].pop("outputs"))


@case
def unknown_precision(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(precision="fp8"))


@case
def unknown_task(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(task="world domination"))


@case
def no_model_at_all(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(model=None, decode=None))


@case
def model_by_another_name(bundle: Path) -> None:
    (bundle / "model.onnx").rename(bundle / "other.onnx")
    rename_entry(bundle, "model.onnx", "other.onnx")
    edit(bundle, lambda manifest: manifest["model"].update(file="other.onnx"))


@case
def model_is_not_listed(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    edit(bundle, lambda manifest: manifest["files"].pop("model.onnx"))


@case
def input_twice(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"]["inputs"].append(manifest["model"]["inputs"][0]))


@case
def no_inputs(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"].update(inputs=[]))


@case
def unknown_dtype(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"]["inputs"][0].update(dtype="object"))


@case
def negative_dimension(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"]["inputs"][0].update(shape=[-1, 4]))


@case
def huge_dimension(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"]["inputs"][0].update(shape=[2**40]))


@case
def dimension_is_true(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"]["inputs"][0].update(shape=[True]))


@case
def unknown_tokenizer(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(tokenizer={"kind": "pickle", "file": "tokenizer.pkl"}))


@case
def tokenizer_outside(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(tokenizer={"kind": "huggingface", "file": "../tokenizer.json"}))


@case
def self_test_outside(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["self_test"].update(file="/etc/passwd"))


@case
def no_tolerances(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["self_test"].update(tolerances={}))


@case
def tolerance_of_nothing(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["self_test"]["tolerances"].update({"training.loss": 1.0}))


@case
def negative_tolerance(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["self_test"]["tolerances"].update({"model.logits": -1.0}))


# States; a bundle without a decoding model gets one of a stranger's making


def with_state(bundle: Path, **changes: Any) -> None:
    """Give the bundle's decoding model a state of one ring, right but for the changes."""
    tensor = {"name": "0.ring", "layer": 0, "kind": "ring", "dtype": "float32", "shape": ["batch", 4, 8], "spare": 0}
    names = {"past": "past.0.ring", "present": "present.0.ring", "bytes": 128, "bytes_per_token": 0}
    whole = {"schema": 1, "capacity": None, "rollback": 0, "max_length": 0, "last_logits": False}
    state = {**whole, "tensors": [{**tensor, **names, **changes.pop("tensor", {})}], **changes}
    tensors = {
        part: [{"name": name, "dtype": "float32", "shape": ["batch", 4, 8]}]
        for part, name in (("inputs", "past.0.ring"), ("outputs", "present.0.ring"))
    }
    add(bundle, "decode.onnx", (bundle / "model.onnx").read_bytes())
    decode = {"file": "decode.onnx", "cpu_file": None, **tensors, "state": state}
    edit(bundle, lambda manifest: manifest.update(decode=decode))


@case
def newer_state(bundle: Path) -> None:
    with_state(bundle, schema=2)


@case
def unknown_kind_of_state(bundle: Path) -> None:
    with_state(bundle, tensor={"kind": "pickle"})


@case
def state_that_the_model_lacks(bundle: Path) -> None:
    with_state(bundle, tensor={"name": "1.ring"})


@case
def state_without_a_batch(bundle: Path) -> None:
    with_state(bundle, tensor={"shape": [1, 4, 8]})


@case
def state_of_negative_size(bundle: Path) -> None:
    with_state(bundle, tensor={"shape": ["batch", -4, 8]})


@case
def state_is_a_list(bundle: Path) -> None:
    with_state(bundle)
    edit(bundle, lambda manifest: manifest["decode"].update(state=[]))


# Graphs for CPUs


def with_cpu_variant(bundle: Path, name: Any = "model.cpu.onnx") -> None:
    """Give the bundle's model another form for CPUs, described rightly but for the name."""
    add(bundle, "model.cpu.onnx", (bundle / "model.onnx").read_bytes())
    edit(bundle, lambda manifest: manifest["model"].update(cpu_file=name))


@case
def cpu_variant_outside(bundle: Path) -> None:
    with_cpu_variant(bundle, "../model.cpu.onnx")


@case
def cpu_variant_by_another_name(bundle: Path) -> None:
    with_cpu_variant(bundle, "model.onnx")


@case
def cpu_variant_of_another_part(bundle: Path) -> None:
    with_cpu_variant(bundle, "decode.cpu.onnx")


@case
def cpu_variant_is_a_number(bundle: Path) -> None:
    with_cpu_variant(bundle, 1)


@case
def cpu_variant_without_a_name(bundle: Path) -> None:
    with_cpu_variant(bundle, "")


@case
def cpu_variant_that_is_not_listed(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"].update(cpu_file="model.cpu.onnx"))


@case
def cpu_variant_that_is_a_link(bundle: Path) -> None:
    with_cpu_variant(bundle)
    (bundle / "model.cpu.onnx").unlink()
    (bundle / "model.cpu.onnx").symlink_to("model.onnx")


@case
def cpu_variant_left_out(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["model"].pop("cpu_file"))


HARMLESS: dict[str, Case] = {
    "good": lambda bundle: None,
    "cpu-variant": with_cpu_variant,
    "engine": with_engine,
    "engine-for-newer-gpus": lambda bundle: with_engine(bundle, architectures=["sm80+"], version="11.4.0.106"),
    "engine-for-an-unknown-gpu": lambda bundle: with_engine(bundle, architectures=[], profiles=[]),
    "state": with_state,
    "bytes": lambda bundle: edit(bundle, lambda manifest: manifest.update(tokenizer={"kind": "bytes"})),
    "more-weights": lambda bundle: add(bundle, "model.onnx.data", b"MZ, which weights may begin with"),
    "manifest-without-spaces": lambda bundle: rewrite(bundle, read(bundle)),
}


def main() -> None:
    """Write the bundles that the command line names."""
    good, folder = map(Path, sys.argv[1:])
    write_all(good, folder)


if __name__ == "__main__":
    main()
