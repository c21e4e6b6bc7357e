"""Take back what a kit's run left on the GPU machine, after checking it as the work of a stranger."""

from __future__ import annotations

import math
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..building.portable.compiling import RefusedError
from ..building.portable.judging import Verdict, judge
from ..building.portable.kit import (
    ENGINE,
    KIT_FILE,
    OUTPUTS,
    REFERENCES,
    RESULT_FILE,
    read_kit,
)
from ..building.result import BuildResult, describe, write_side_file
from ..errors import BadInputError, NumbersDifferError
from ..files import atomic_path, sha256
from ..formats.document import read_file
from ..formats.engine_file import BuilderWarning, NumbersCheck
from ..formats.kit import BuilderFacts, KitRun, KitVerdict
from .manifest import Manifest, read_manifest

# A header of an .npy file takes this at most.
_HEADER_BYTES = 4096
_AGAIN = "run the kit's build.py again and copy the whole result folder"


def accept_kit(
    result: str | Path, output: str | Path | None = None, *, progress: Callable[[str], None] | None = None
) -> BuildResult:
    """Check the result folder of a kit that was run on a GPU machine, and take its engine.

    The kit is the folder around it. The engine's and the outputs' SHA-256 must be those that the run recorded, the
    run must have been of this very kit, every node must have become a plugin layer, and the numbers are judged again
    here. That finds damage, mix-ups and edits; a forger who rewrites everything consistently is not found.

    Args:
        result: the result folder, inside its kit.
        output: the engine; beside the kit, named after the model, when None.
        progress: receives the name of each phase.

    Raises:
        BadInputError: a file is missing, damaged, edited, of another kit or outside the folder.
        NumbersDifferError: the engine's numbers are wrong.
    """
    report = progress or (lambda _phase: None)
    folder = Path(result)
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder", "name the result folder inside the kit")
    kit = folder.resolve().parent
    report("checking the kit")
    manifest = read_manifest(kit)
    _check_kit(kit)
    report("checking the result")
    record = read_file(_plain_file(folder, RESULT_FILE), KitRun, "a hsm-export.kit-result file", _AGAIN, whole=True)
    return _accept(kit, folder, manifest, record, output)


def _accept(kit: Path, folder: Path, manifest: Manifest, record: KitRun, output: str | Path | None) -> BuildResult:
    if record.kit_sha256 != sha256(kit / KIT_FILE):
        raise BadInputError(f"{folder} is the result of another kit than {kit}", "put it into its own kit")
    _check_files(folder, record)
    _check_layers(folder, manifest, record.facts)
    verdicts = _judge(kit, folder, manifest)
    _check_claims(folder, verdicts, record)
    numbers = _numbers(folder, manifest, verdicts)
    engine = Path(output) if output is not None else kit.parent / manifest.plan.source.path.with_suffix(".engine").name
    with atomic_path(engine) as scratch:
        shutil.copyfile(folder / ENGINE, scratch)
        warnings = record.warnings
        accepted = describe(
            manifest.plan,
            engine,
            scratch,
            _facts(manifest, record.facts),
            build_seconds=record.build_seconds,
            warnings=tuple(BuilderWarning(text, warnings.count(text)) for text in dict.fromkeys(warnings)),
            gpu=record.gpu,
            numbers=numbers,
        )
        write_side_file(accepted)
    return accepted


def _check_kit(kit: Path) -> None:
    try:
        read_kit(kit)
    except RefusedError as error:
        raise BadInputError(str(error), "write the kit again, and run that one") from error


def _plain_file(folder: Path, name: str) -> Path:
    """Return a file of the result folder.

    Raises:
        BadInputError: its name leads out of the folder, it is a link, or it is missing.
    """
    if name != Path(name).name or name in ("", ".", ".."):
        raise BadInputError(f"{folder / RESULT_FILE} names the file {name!r}, outside its folder", _AGAIN)
    path = folder / name
    if path.is_symlink():
        raise BadInputError(f"{path} is a link, not a file", _AGAIN)
    if not path.is_file():
        raise BadInputError(f"the result {folder} has no {name}", _AGAIN)
    return path


def _check_files(folder: Path, record: KitRun) -> None:
    listed = record.files
    for name in listed:
        _plain_file(folder, name)
    for name in (ENGINE, OUTPUTS):
        if name not in listed:
            raise BadInputError(f"the result {folder} has no {name}: the engine was not run", _AGAIN)
        if sha256(_plain_file(folder, name)) != listed[name]:
            raise BadInputError(f"{folder / name} was changed: its SHA-256 is not the one that was recorded", _AGAIN)
    extra = sorted(set(listed) - {ENGINE, OUTPUTS})
    if extra:
        raise BadInputError(f"the result {folder} lists files that do not belong there: {', '.join(extra)}", _AGAIN)


def _check_layers(folder: Path, manifest: Manifest, facts: BuilderFacts) -> None:
    """Check that the builder used the plugins; an engine that trtexec built does not say."""
    found, expected = facts.plugin_layers, list(manifest.plan.nodes)
    if facts.layers and sorted(found) != sorted(expected):
        raise BadInputError(
            f"the engine in {folder} has {len(found)} plugin layers, and the kit has {len(expected)} nodes for them",
            _AGAIN,
        )


def _facts(manifest: Manifest, facts: BuilderFacts) -> Mapping[str, Any]:
    """Complete what the builder told; of an engine that trtexec built, the kit knows the tensors."""
    source = manifest.plan.source
    known = msgspec.structs.asdict(facts)
    if facts.layers:
        return known
    return {**known, **{part: {t.name: t.dtype for t in getattr(source, part)} for part in ("inputs", "outputs")}}


def _judge(kit: Path, folder: Path, manifest: Manifest) -> list[Verdict]:
    with np.load(kit / REFERENCES, allow_pickle=False) as archive:
        references = {name: archive[name] for name in archive.files}
    sizes = {
        f"case{index}.output.{name}": references[f"case{index}.expected.{name}"].size
        for index, case in enumerate(manifest.cases)
        for name in case["tolerances"]
    }
    return judge(manifest.cases, references, _outputs(folder / OUTPUTS, sizes))


def _outputs(path: Path, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Read the outputs, which must be the expected ones and no larger.

    Raises:
        BadInputError: one is missing, unknown or too large, or the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        missing, unknown = sorted(set(sizes) - set(members)), sorted(set(members) - set(sizes))
        if missing or unknown:
            what = f"lacks {missing[0]}" if missing else f"holds {unknown[0]}, which the kit does not ask for"
            raise BadInputError(f"{path} {what}", _AGAIN)
        for name, size in members.items():
            if size > 8 * sizes[name] + _HEADER_BYTES:
                raise BadInputError(f"{path}: {name} is larger than the kit's output", _AGAIN)
        with np.load(path, allow_pickle=False) as arrays:
            outputs = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{path} is not a readable .npz file: {error}", _AGAIN) from error
    for name, array in outputs.items():
        if array.dtype.kind not in "fiub":
            raise BadInputError(f"{path}: {name} holds {array.dtype}, not numbers", _AGAIN)
    return outputs


def _check_claims(folder: Path, verdicts: list[Verdict], record: KitRun) -> None:
    """Check that the recorded errors are those of the recorded outputs."""
    claimed = record.verdicts
    if len(claimed) != len(verdicts) or not all(map(_agree, claimed, verdicts)):
        raise BadInputError(
            f"the numbers in {folder / RESULT_FILE} were changed: they are not those of {OUTPUTS}", _AGAIN
        )


def _agree(claimed: KitVerdict, actual: Verdict) -> bool:
    pairs = ((claimed.error, actual.error), (claimed.tolerance, actual.tolerance))
    close = all(a == b or math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-30) for a, b in pairs)
    return (
        (claimed.case, claimed.output) == (actual.case, actual.output)
        and close
        and (bool(claimed.problem) == bool(actual.problem))
    )


def _numbers(folder: Path, manifest: Manifest, verdicts: list[Verdict]) -> NumbersCheck:
    """Return the summary of the numbers.

    Raises:
        NumbersDifferError: they are wrong.
    """
    failed = [verdict for verdict in verdicts if verdict.problem]
    worst = max(failed or verdicts, key=lambda verdict: verdict.error / (verdict.tolerance or 1e-300))
    if failed:
        raise NumbersDifferError(
            f"the engine in {folder} is wrong: {worst.output} in case {worst.case!r}: {worst.problem} "
            f"({len(failed)} of {len(verdicts)} comparisons fail)",
            "report it with the whole kit folder, and build with --no-plugins meanwhile",
        )
    return NumbersCheck(len(manifest.cases), manifest.arbiter, worst.output, worst.error, worst.tolerance)
