"""Paths, files, contents and shared libraries that no bundle may have."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx

from .changing import MANIFEST, add, case, edit, read, rename_entry
from .engines import with_engine

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


# Graphs that are no such thing, though the manifest says it of their very bytes


def with_model(bundle: Path, data: bytes) -> None:
    """Give the bundle another model, listed rightly."""
    add(bundle, "model.onnx", data)


@case
def signed_half_of_a_model(bundle: Path) -> None:
    data = (bundle / "model.onnx").read_bytes()
    with_model(bundle, data[: len(data) // 2])


@case
def signed_text_in_place_of_a_model(bundle: Path) -> None:
    with_model(bundle, b"# no model")


@case
def signed_nothing_in_place_of_a_model(bundle: Path) -> None:
    with_model(bundle, b"")


def with_weights_at(bundle: Path, location: str, inside: bool = False) -> None:
    """Let one of the model's tensors, perhaps of an inner graph, keep its numbers in another file."""
    model = onnx.load_from_string((bundle / "model.onnx").read_bytes())
    tensor = onnx.TensorProto(name="far", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if inside:
        model.graph.node.append(onnx.helper.make_node("Constant", [], ["far"], value=tensor))
    else:
        model.graph.initializer.append(tensor)
    with_model(bundle, model.SerializeToString())


@case
def weights_outside(bundle: Path) -> None:
    (bundle.parent / "outside.data").write_bytes(bytes(4))
    with_weights_at(bundle, "../outside.data")


@case
def weights_at_an_absolute_path(bundle: Path) -> None:
    with_weights_at(bundle, "/etc/hostname")


@case
def weights_that_are_not_there(bundle: Path) -> None:
    with_weights_at(bundle, "weights.data")


@case
def weights_of_a_node_outside(bundle: Path) -> None:
    (bundle.parent / "outside.data").write_bytes(bytes(4))
    with_weights_at(bundle, "../outside.data", inside=True)


@case
def outputs_that_the_manifest_keeps_quiet_about(bundle: Path) -> None:
    model = onnx.load_from_string((bundle / "model.onnx").read_bytes())
    model.graph.node.append(onnx.helper.make_node("Identity", [model.graph.output[0].name], ["more"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, None))
    with_model(bundle, model.SerializeToString())


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
