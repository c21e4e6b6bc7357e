"""Planted faults are found: in the right runtime and the right node, by `diff` and by its bisection."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.exporter.bundling.engines import pretend_engine
from tests.exporter.runtimes.fused import needs_library
from tests.faults.harness import PATCHES, ROOT, compare, export, library, patch_of, refused_export
from tests.faults.models import train_further, write_checkpoint

from hsm_export.diffing.results import DiffResult
from hsm_export.diffing.stale_engines import stale_engines

pytestmark = needs_library  # where it could be built, a patched one can be

FILE = "onnx64"
Node = tuple[str, str]


@dataclass(frozen=True)
class Case:
    """A model, and how it is compared.

    Attributes:
        model: name of a model.
        precision: of the file.
        shape: batch and length of the inputs.
    """

    model: str
    precision: str
    shape: tuple[int, int]


CASES = {
    "shifts": Case("shifts", "fp32", (2, 17)),
    "decoding": Case("decoding", "fp32", (2, 17)),
    "experts": Case("experts", "fp32", (2, 9)),
    "attention": Case("attention", "fp16", (2, 64)),
}


@dataclass(frozen=True)
class Fault:
    """A patch, and what must be said of it.

    Attributes:
        patch: its name.
        case: name of the case that shows it.
        runtime: who is at fault; `FILE` for a fault of the exporter.
        node: name and operator of the first node at fault.
        bisected: the node that bisection names, where the source's module around the node is named.
    """

    patch: str
    case: str
    runtime: str
    node: Node
    bisected: Node | None = None


KERNELS = (
    Fault("wrong_sign", "shifts", "ort-fused", ("layers.0.mixer", "ShiftMix")),
    Fault("swapped_expert", "experts", "ort-fused", ("layers.0.mixer.value", "ExpertMatMul")),
    Fault("fp16_overflow", "attention", "ort-fused", ("layers.1.mixer", "TaylorShift")),
    Fault("ring_slot", "decoding", "ort-fused", ("layers.0.mixer", "ShiftMixCached")),
    Fault("nondeterministic", "shifts", "ort-fused", ("layers.0.mixer", "ShiftMix")),
)
EXPORTS = (
    Fault("shift_off_by_one", "shifts", FILE, ("layers.1.mixer", "TokenShift")),
    Fault("transposed_weight", "shifts", FILE, ("layers.1.feed_forward.up", "Linear")),
    Fault("epsilon", "shifts", FILE, ("layers.0.norm1", "LayerNorm")),
    Fault("body_sign", "shifts", FILE, ("layers.0.mixer", "ShiftMix")),
)
QUICK = ("wrong_sign", "shift_off_by_one")  # those that `make test` runs


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="hsm-faults-") as name:
        yield Path(name)


def sound_file(name: str, folder: Path) -> tuple[Path, Path]:
    """Return the file and the checkpoint of a case, exported without a fault."""
    case = CASES[name]
    checkpoint, model = folder / f"{case.model}.safetensors", folder / f"{name}.onnx"
    if not checkpoint.exists():
        write_checkpoint(case.model, folder)
    if not model.exists():
        export(checkpoint, model, None, case.precision, decode=case.model == "decoding")
    return model, checkpoint


def require_found(result: DiffResult, fault: Fault) -> None:
    """Fail unless the report names the fault's runtime and node, and bisection the same one."""
    assert not result.passed
    first = result.culprits[0]
    assert (first.runtime, first.layer.node, first.layer.operator) == (fault.runtime, *fault.node), first.line
    found = [item for item in result.bisections if item.bad == fault.runtime]
    assert [item.nodes for item in found] == [((fault.bisected or fault.node),)], (found, result.notes)
    others = {item.runtime for item in result.culprits} - {fault.runtime}
    assert others <= ({"ort-fused"} if fault.patch == "body_sign" else set()), result.culprits


def params(faults: tuple[Fault, ...]) -> list[object]:
    return [
        pytest.param(fault, id=fault.patch, marks=() if fault.patch in QUICK else (pytest.mark.slow,))
        for fault in faults
    ]


@pytest.mark.parametrize("fault", params(KERNELS))
def test_a_fault_of_a_kernel_is_found(fault: Fault, folder: Path) -> None:
    model, checkpoint = sound_file(fault.case, folder)
    kernels = library(patch_of(fault.patch))
    result = compare(model, checkpoint, ["ort", "ort-fused"], CASES[fault.case].shape, kernels)
    require_found(result, fault)
    reports = {item.runtime: item for item in result.runtimes}
    assert reports["ort"].verdict == reports[FILE].verdict == "same"
    if fault.patch == "nondeterministic":
        assert reports["ort-fused"].noise
        note = f"{fault.node[0]} ({fault.node[1]}) gives two results for the same inputs"
        assert any(note in text for text in reports["ort-fused"].notes)


@pytest.mark.parametrize("fault", params(EXPORTS))
def test_a_fault_of_the_exporter_is_found(fault: Fault, folder: Path, tmp_path: Path) -> None:
    _, checkpoint = sound_file(fault.case, folder)
    model = export(checkpoint, tmp_path / "faulty.onnx", patch_of(fault.patch))
    result = compare(model, checkpoint, ["ort", "ort-fused"], CASES[fault.case].shape)
    require_found(result, fault)
    assert {item.runtime: item.verdict for item in result.runtimes}[FILE] == "differs"


@pytest.mark.slow
@pytest.mark.parametrize("fault", params(tuple(fault for fault in EXPORTS if fault.patch != "epsilon")))
def test_the_exporter_refuses_its_own_fault(fault: Fault, folder: Path, tmp_path: Path) -> None:
    """But for the epsilon: that patch changes the models' own code, which the exporter then takes for right."""
    _, checkpoint = sound_file(fault.case, folder)
    target = tmp_path / "faulty.onnx"
    assert "is off by" in refused_export(checkpoint, target, patch_of(fault.patch))
    assert not target.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_without_a_fault_nothing_is_found(name: str, folder: Path) -> None:
    model, checkpoint = sound_file(name, folder)
    result = compare(model, checkpoint, ["ort", "ort-fused"], CASES[name].shape, library(None))
    assert result.passed, result.summary
    assert not result.culprits and not result.bisections and not result.warnings
    assert all(item.verdict == "same" and not item.noise for item in result.runtimes)


@pytest.mark.slow
def test_a_file_of_an_older_checkpoint_is_told(folder: Path, tmp_path: Path) -> None:
    model, checkpoint = sound_file("shifts", folder)
    newer = train_further(checkpoint, tmp_path / "newer.safetensors")
    result = compare(model, newer, ["ort", "ort-fused"], CASES["shifts"].shape)
    assert not result.passed
    assert "a stale file, or another checkpoint" in result.warnings[0]
    names = [f"layers.1.feed_forward.{part}.{kind}" for part in ("down", "up") for kind in ("bias", "weight")]
    assert result.warnings[1].startswith("4 of ") and result.warnings[1].endswith(": " + ", ".join(names))
    first = result.culprits[0]
    assert (first.runtime, first.layer.node, first.layer.operator) == (FILE, "layers.1.feed_forward.up", "Linear")
    (found,) = (item for item in result.bisections if item.bad == FILE)
    assert set(found.nodes) <= {(f"layers.1.feed_forward.{part}", "Linear") for part in ("up", "down")} and found.nodes


def test_an_engine_of_an_older_file_is_told(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    shutil.copy(sound_file("shifts", folder)[0], model)
    pretend_engine(tmp_path / "fresh.engine", model)
    assert stale_engines(model) == ()
    recorded = {"file": model.name, "sha256": "0" * 64, "external_data": {}}
    pretend_engine(tmp_path / "old.engine", model, source=recorded)
    pretend_engine(tmp_path / "other.engine", model, source={**recorded, "file": "another.onnx"})
    (tmp_path / "broken.engine.json").write_text("{}")
    (sentence,) = stale_engines(model)
    assert sentence.startswith(f"{tmp_path / 'old.engine'} was built from another model.onnx")


def test_every_patch_is_a_fault_of_the_table() -> None:
    patches = {path.stem for path in Path(__file__).parent.glob("*.patch")}
    assert patches == {fault.patch for fault in (*KERNELS, *EXPORTS)}
    assert shutil.which("git")


@pytest.mark.parametrize("patch", sorted(PATCHES.glob("*.patch")), ids=lambda patch: patch.stem)
def test_a_patch_fits_the_sources(patch: Path) -> None:
    """The faults themselves are slow to try."""
    command = ["git", "apply", "--check", "--whitespace=nowarn", str(patch)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
