"""Build kits: written here, run on a stand-in for the GPU machine, taken back after checks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.exporter.building.fake_tensorrt import Driver, FakeTensorRT
from tests.exporter.building.hand_made import token_model
from tests.exporter.building.test_models import MODELS, exported

import hsm_export
from hsm_export import native
from hsm_export.building.portable import device as device_module
from hsm_export.building.portable.kit import digest, main
from hsm_export.errors import BadInputError, MissingDependencyError, NumbersDifferError, UsageError
from hsm_export.kits import accept_kit, write_kit
from hsm_export.kits.manifest import read_manifest
from hsm_models.checkpoint import build_model, save_checkpoint

PROFILES = [{"batch": "1:2:4", "length": "1:8:16"}]


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation whose plugin library the stand-in takes."""
    folder = tmp_path / "installation"
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / native.TENSORRT_PLUGINS).write_bytes(b"plugins")
    monkeypatch.setattr("hsm_operators.installation.folders", lambda: iter([folder]))
    return folder


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported HSM model."""
    return exported(tmp_path_factory.mktemp("model"), MODELS["hsm"], "fp32")


@pytest.fixture(scope="module")
def template(hsm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit of an HSM model for TensorRT, with references from the file itself; tests copy it."""
    folder = tmp_path_factory.mktemp("kit")
    (folder / "lib").mkdir()
    (folder / "lib" / native.TENSORRT_PLUGINS).write_bytes(b"plugins")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hsm_operators.installation.folders", lambda: iter([folder]))
        write_kit(hsm, folder / "kit", target="tensorrt", profiles=PROFILES)
    return folder / "kit"


@pytest.fixture
def kit(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "kit"))


@pytest.fixture
def gpu_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a kit's program as if on a GPU machine; `error` is what its engines add to every number."""

    def run(kit: Path, *arguments: str, error: float = 0.0, ignores: str = "") -> int:
        monkeypatch.setattr(device_module, "_driver", Driver)
        monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(ignores, error))
        return main(kit, list(arguments))

    return run


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_kit_holds_everything_and_says_so(kit: Path) -> None:
    programs = {
        f"hsm_kit/building/portable/{name}.py"
        for name in ["__init__", "compiling", "device", "judging", "kit", "linking", "running"]
    }
    # What they import keeps its place; the packages above are empty.
    measure = [
        "__init__",
        "comparison/__init__",
        "comparison/error",
        "comparison/verdict",
        "dtypes",
        "building/__init__",
    ]
    programs |= {f"hsm_kit/{name}.py" for name in measure}
    files = {"README.md", "build.py", "kit.json", "libhsm_tensorrt.so", "network.onnx", "validation.npz"}
    assert names(kit) == programs | files
    manifest = read_manifest(kit)
    assert set(manifest.files) == names(kit) - {"kit.json"}
    assert all(digest(kit / name) == sha for name, sha in manifest.files.items())
    assert manifest.compared == 1.0
    assert len(manifest.cases) >= 3
    network = onnx.load(kit / "network.onnx")
    assert not network.functions
    assert {node.name: node.op_type for node in network.graph.node if node.domain == "hsm"} == manifest.plan.nodes
    readme = (kit / "README.md").read_text()
    assert "trtexec --onnx=network.onnx" in readme
    assert "--dynamicPlugins=./libhsm_tensorrt.so" in readme
    assert "--maxShapes=tokens:4x16" in readme
    assert f"{len(manifest.plan.nodes)} plugin layers" in readme
    assert str(kit.parent) not in (kit / "kit.json").read_text() + readme


def test_a_kits_result_becomes_an_engine(kit: Path, gpu_machine: Callable[..., int], tmp_path: Path) -> None:
    assert gpu_machine(kit, error=1e-9) == 0
    result = accept_kit(kit / "result", tmp_path / "taken.engine")
    assert result.engine.read_bytes() == (kit / "result" / "model.engine").read_bytes()
    side = json.loads(result.side_file.read_text())
    assert side["gpu"] == "Imaginary GPU (sm89)"
    assert side["target_version"] == "10.99.0"
    assert side["profiles"] == [{"batch": {"min": 1, "opt": 2, "max": 4}, "length": {"min": 1, "opt": 8, "max": 16}}]
    assert side["plugins"]["file"] == "libhsm_tensorrt.so"
    assert set(side["plugins"]["layers"].values()) <= {"TokenShift", "ShiftMix"}
    assert side["source"]["file"] == "model.onnx"
    assert side["warnings"] == [{"message": "imaginary warning", "count": 1}]
    assert side["experimental"] is False
    assert result.numbers is not None
    assert 0 <= result.numbers.max_abs_error <= result.numbers.tolerance
    assert hsm_export.inspect(result.engine).intact  # type: ignore[union-attr]


def test_an_engine_that_trtexec_built_is_checked_too(
    kit: Path, gpu_machine: Callable[..., int], tmp_path: Path
) -> None:
    assert gpu_machine(kit) == 0
    built = tmp_path / "trtexec.engine"
    (kit / "result" / "model.engine").rename(built)
    shutil.rmtree(kit / "result")
    assert gpu_machine(kit, "--engine", str(built)) == 0
    assert accept_kit(kit / "result").outputs[0].dtype == "float32"
    assert (kit.parent / "model.engine").is_file()


def test_wrong_numbers_are_seen_on_both_machines(
    kit: Path, gpu_machine: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_machine(kit, error=0.5) == 5
    assert "FAIL" in capsys.readouterr().out
    with pytest.raises(NumbersDifferError, match=r"logits in case .* error 0\.5"):
        accept_kit(kit / "result", kit.parent / "e.engine")
    assert not (kit.parent / "e.engine").exists()


def test_a_fallback_to_anything_but_plugins_is_refused(kit: Path, gpu_machine: Callable[..., int]) -> None:
    assert gpu_machine(kit, ignores="TokenShift") == 6


def test_a_damaged_kit_does_not_run(
    kit: Path, gpu_machine: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with (kit / "network.onnx").open("ab") as file:
        file.write(b"\0")
    assert gpu_machine(kit) == 4
    assert "network.onnx was changed" in capsys.readouterr().err
    (kit / "network.onnx").unlink()
    assert gpu_machine(kit) == 4
    assert "network.onnx is missing" in capsys.readouterr().err
    assert not (kit / "result").exists()


def test_without_tensorrt_the_program_says_what_to_install(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(kit, []) == 3
    assert "pip install tensorrt-cu13 numpy" in capsys.readouterr().err


# What a stranger's result folder may look like.


def edit_record(result: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = result / "result.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def edit_outputs(result: Path, change: Callable[[dict[str, Any]], Any], *, honest: bool = True) -> None:
    """Change the outputs; `honest` records their new SHA-256."""
    path = result / "outputs.npz"
    with np.load(path) as archive:
        outputs = dict(archive)
    change(outputs)
    np.savez(path, **outputs)
    if honest:
        edit_record(result, lambda record: record["files"].update({"outputs.npz": digest(path)}))


def drop_output(outputs: dict[str, Any]) -> None:
    del outputs[next(iter(outputs))]


def edit_number(outputs: dict[str, Any]) -> None:
    next(iter(outputs.values())).flat[0] += 1e-6


def swap_engine(result: Path) -> None:
    (result / "model.engine").write_bytes(b"another engine")


def link_engine(result: Path) -> None:
    (result / "model.engine").rename(result.parent / "elsewhere")
    (result / "model.engine").symlink_to(result.parent / "elsewhere")


def bomb(result: Path) -> None:
    """Replace an output by one that unpacks to much more than it ought to."""
    with np.load(result / "outputs.npz") as archive:
        outputs = dict(archive)
    name = next(iter(outputs))
    outputs[name] = np.zeros((1 << 20, 16))
    np.savez_compressed(result / "outputs.npz", **outputs)
    edit_record(result, lambda record: record["files"].update({"outputs.npz": digest(result / "outputs.npz")}))


def no_zip(result: Path) -> None:
    (result / "outputs.npz").write_bytes(b"PK")
    edit_record(result, lambda record: record["files"].update({"outputs.npz": digest(result / "outputs.npz")}))


def pickles(result: Path) -> None:
    def objects(outputs: dict[str, Any]) -> None:
        outputs[next(iter(outputs))] = np.array([{}], dtype=object)

    edit_outputs(result, objects)


STRANGERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no record": (lambda r: (r / "result.json").unlink(), r"no result\.json"),
    "no JSON": (lambda r: (r / "result.json").write_text("{"), "not valid JSON"),
    "another schema": (lambda r: edit_record(r, lambda d: d.update(schema="x")), "not a hsm-export.kit-result"),
    "a newer schema": (lambda r: edit_record(r, lambda d: d.update(schema_version=2)), "schema version 2"),
    "another kit's": (lambda r: edit_record(r, lambda d: d.update(kit_sha256="0")), "another kit"),
    "no engine": (lambda r: (r / "model.engine").unlink(), r"no model\.engine"),
    "another engine": (swap_engine, r"model\.engine was changed"),
    "a link": (link_engine, "is a link"),
    "no outputs": (lambda r: edit_record(r, lambda d: d["files"].pop("outputs.npz")), "the engine was not run"),
    "a path up": (lambda r: edit_record(r, lambda d: d["files"].update({"../kit.json": "0"})), "outside its folder"),
    "an absolute path": (lambda r: edit_record(r, lambda d: d["files"].update({"/etc/passwd": "0"})), "outside"),
    "one more file": (lambda r: edit_record(r, lambda d: d["files"].update({"result.json": "0"})), "do not belong"),
    "files of no kind": (lambda r: edit_record(r, lambda d: d.update(files=7)), "not a hsm-export.kit-result"),
    "facts are missing": (lambda r: edit_record(r, lambda d: d.pop("facts")), "not a hsm-export.kit-result"),
    "a layer is missing": (
        lambda r: edit_record(r, lambda d: d["facts"]["plugin_layers"].pop()),
        "plugin layers, and the kit has",
    ),
    "an output is missing": (lambda r: edit_outputs(r, drop_output), "lacks case0"),
    "an unknown output": (lambda r: edit_outputs(r, lambda o: o.update(x=np.zeros(1))), "does not ask for"),
    "a number edited": (lambda r: edit_outputs(r, edit_number, honest=False), r"outputs\.npz was changed"),
    "a number edited with its hash": (lambda r: edit_outputs(r, edit_number), "numbers .* were changed"),
    "an error edited": (lambda r: edit_record(r, lambda d: d["verdicts"][0].update(error=0.0)), "were changed"),
    "a verdict dropped": (lambda r: edit_record(r, lambda d: d["verdicts"].pop()), "were changed"),
    "a zip bomb": (bomb, "larger than the kit's output"),
    "no zip": (no_zip, "not a readable .npz"),
    "a pickle": (pickles, "not a readable .npz|holds object"),
}


@pytest.fixture(scope="module")
def run_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit with its result."""
    folder = Path(shutil.copytree(template, tmp_path_factory.mktemp("run") / "kit"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_module, "_driver", Driver)
        patch.setitem(sys.modules, "tensorrt", FakeTensorRT(error=1e-9))
        assert main(folder, []) == 0
    return folder


@pytest.mark.parametrize("name", STRANGERS)
def test_a_result_that_is_not_what_it_claims_is_refused(run_template: Path, tmp_path: Path, name: str) -> None:
    change, words = STRANGERS[name]
    kit = Path(shutil.copytree(run_template, tmp_path / "kit"))
    change(kit / "result")
    with pytest.raises(BadInputError, match=words):
        accept_kit(kit / "result", tmp_path / "e.engine")
    assert not (tmp_path / "e.engine").exists()
    assert not (tmp_path / "e.engine.json").exists()


def test_a_changed_kit_accepts_nothing(run_template: Path, tmp_path: Path) -> None:
    kit = Path(shutil.copytree(run_template, tmp_path / "kit"))
    with zipfile.ZipFile(kit / "validation.npz", "a") as archive:
        archive.writestr("more.npy", b"")
    with pytest.raises(BadInputError, match=r"validation\.npz was changed"):
        accept_kit(kit / "result")
    (kit / "kit.json").write_text("[]")
    with pytest.raises(BadInputError, match=r"not a hsm-export\.kit file"):
        accept_kit(kit / "result")
    with pytest.raises(BadInputError, match="not a folder"):
        accept_kit(tmp_path / "nowhere")


def test_a_kit_that_names_files_outside_itself_is_refused(
    kit: Path, gpu_machine: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = kit / "kit.json"
    data = json.loads(path.read_text())
    data["files"]["../secret"] = {"sha256": "0"}
    path.write_text(json.dumps(data))
    assert gpu_machine(kit) == 4
    assert "outside the kit" in capsys.readouterr().err


# Other kits.


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"timing_cache": "x"}, UsageError, "file of the GPU machine"),
        ({"strip_weights": True}, UsageError, "cannot be run"),
        ({"target": "openvino"}, UsageError, "openvino"),
        ({"architectures": "sm86"}, UsageError, "--arch"),
        ({"profiles": [{"width": 1}]}, UsageError, "width"),
    ],
)
def test_refusals_leave_nothing(tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str) -> None:
    model = token_model(tmp_path / "m.onnx")
    with pytest.raises(error, match=words):
        write_kit(model, tmp_path / "kit", **{"target": "tensorrt", **options})
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_full_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "mine").touch()
    with pytest.raises(BadInputError, match="not an empty folder"):
        write_kit(token_model(tmp_path / "m.onnx"), tmp_path / "kit")


def test_without_the_plugin_library_a_kit_with_plugins_is_refused(
    hsm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsm_operators.installation.folders", lambda: iter([tmp_path]))
    with pytest.raises(MissingDependencyError, match=r"libhsm_tensorrt\.so") as caught:
        write_kit(hsm, tmp_path / "kit")
    assert "nvcc" in str(caught.value.hint)
    result = write_kit(hsm, tmp_path / "kit", plugins=False, profiles=PROFILES)
    assert result.plugin_layers == 0
    assert not onnx.load(tmp_path / "kit" / "network.onnx").functions


def test_external_weights_come_along(tmp_path: Path, gpu_machine: Callable[..., int]) -> None:
    model = token_model(tmp_path / "m.onnx", external=True, max_length=8)
    result = write_kit(model, tmp_path / "kit", embed_plugins=False, version_compatible=True)
    assert "m.onnx.data" in names(result.kit)
    assert "--versionCompatible" in (result.kit / "README.md").read_text()
    assert gpu_machine(result.kit) == 0
    assert accept_kit(result.kit / "result").version_compatible


def test_a_switch_heads_near_ties_are_not_compared(
    plugins: Path, tmp_path: Path, gpu_machine: Callable[..., int]
) -> None:
    torch.manual_seed(3)
    model = exported(tmp_path, MODELS["switch-head-rope"], "fp16")
    result = write_kit(model, tmp_path / "kit", against=tmp_path / "checkpoint.safetensors", profiles=PROFILES)
    assert result.arbiter == "torch64"
    assert 0 < result.compared <= 1
    assert gpu_machine(result.kit) == 0
    assert accept_kit(result.kit / "result").precision == "fp16"


def test_a_decoding_steps_caches_have_room(plugins: Path, tmp_path: Path, gpu_machine: Callable[..., int]) -> None:
    torch.manual_seed(3)
    save_checkpoint(build_model(MODELS["hsm-fusion"]), tmp_path / "checkpoint.safetensors")
    model = tmp_path / "step.onnx"
    hsm_export.export(str(tmp_path / "checkpoint.safetensors"), output=model, decode=True)
    result = write_kit(model, tmp_path / "kit", profiles=[{"batch": "1:2:4", "length": "1:1:8", "capacity": "4:16:32"}])
    assert result.compared > 0.5
    with np.load(result.kit / "validation.npz") as arrays:
        for index in range(result.cases):
            cache = next(array for name, array in arrays.items() if name.startswith(f"case{index}.input.past.1"))
            tokens, position = arrays[f"case{index}.input.tokens"], arrays[f"case{index}.input.position"]
            assert 4 <= cache.shape[1] <= 32
            assert (position + tokens.shape[1] <= cache.shape[1]).all()
    assert gpu_machine(result.kit) == 0
    assert accept_kit(result.kit / "result").numbers is not None


def test_trtexec_flags_follow_the_options(hsm: Path, plugins: Path, tmp_path: Path) -> None:
    kit = write_kit(
        hsm,
        tmp_path / "kit",
        profiles=[{"batch": 1, "length": 1}, {"batch": 2, "length": "1:4:9"}],
        version_compatible=True,
        embed_plugins=True,
        refit=True,
        weight_streaming=True,
        hardware_compatibility="same-compute-capability",
    ).kit
    readme = (kit / "README.md").read_text()
    for flag in (
        "--setPluginsToSerialize=./libhsm_tensorrt.so",
        "--hardwareCompatibilityLevel=sameComputeCapability",
        "--refit --allowWeightStreaming",
        "--profile=1 --minShapes=tokens:2x1 --optShapes=tokens:2x4 --maxShapes=tokens:2x9",
    ):
        assert flag in readme


def test_the_real_builder_builds_from_a_kit_that_knows_nothing_of_this_package(hsm: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    kit = write_kit(hsm, tmp_path / "kit", target="tensorrt-rtx", architectures="sm86", profiles=PROFILES).kit
    blocked = "import sys; sys.modules.update(dict.fromkeys(['hsm_export', 'onnx', 'polygraphy', 'torch']));"
    program = f"{blocked} sys.argv = ['build.py', '--build-only']; sys.path.insert(0, {str(kit)!r});"
    program += f"import runpy; runpy.run_path({str(kit / 'build.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert (kit / "result" / "model.engine").stat().st_size > 10_000
    assert names(kit) == set(read_manifest(kit).files) | {"kit.json", "result/model.engine", "result/result.json"}
    with pytest.raises(BadInputError, match="the engine was not run"):
        accept_kit(kit / "result")


def test_a_plan_survives_its_way_through_the_manifest(kit: Path) -> None:
    plan = read_manifest(kit).plan
    written = json.loads((kit / "kit.json").read_text())["settings"]
    assert written["plugin_libraries"] == ["libhsm_tensorrt.so"]
    assert plan.libraries == (kit / "libhsm_tensorrt.so",)
    restored = {**plan.settings().to_dict(), "plugin_libraries": ["libhsm_tensorrt.so"]}
    assert json.loads(json.dumps(restored)) == written
