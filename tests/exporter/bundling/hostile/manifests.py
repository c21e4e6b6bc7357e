"""Manifests that are not right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .changing import MANIFEST, case, edit, read, rename_entry, rewrite


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
