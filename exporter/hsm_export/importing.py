"""`hsm-export import`: checkpoints in the authors' layouts become ours."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BadInputError, NotJudgedError, NumbersDifferError, UsageError
from .files import require_file, sha256
from .formats.result import Result

if TYPE_CHECKING:
    from hsm_models import LanguageModel, SequenceClassifier
    from hsm_models.importers import Fact, Layout

    from .validation import ValidationResult

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ImportResult(Result):
    """What `import_checkpoint` wrote.

    Attributes:
        source: the authors' file.
        source_sha256: SHA-256 of its bytes.
        output: the checkpoint that was written.
        fingerprint: SHA-256 of the checkpoint's configuration and weights, as exported files carry it.
        layout: the layout that the source was read as.
        preset: the published configuration that the source was checked against, or None.
        config: the model's configuration, as JSON data.
        parameters: number of weights.
        names: our name of each weight, and the authors' name that it came from.
        ignored: names in the source that carry no weights of their own (counters, a tied output).
        facts: what the weights do not show, with the origin of each answer. The checkpoint's metadata hold them too,
            under "import_facts".
        check: how the model and its exported file compare with a run that its author recorded; None without one.
    """

    source: Path
    source_sha256: str
    output: Path
    fingerprint: str
    layout: str
    preset: str | None
    config: dict[str, Any]
    parameters: int
    names: dict[str, str]
    ignored: tuple[str, ...]
    facts: tuple[Fact, ...] = ()
    check: ValidationResult | None = None

    @property
    def assumed(self) -> tuple[Fact, ...]:
        """The facts that nobody gave."""
        return tuple(fact for fact in self.facts if fact.assumed)


def import_checkpoint(
    source: str | Path,
    output: str | Path,
    *,
    layout: Layout,
    preset: str | None = None,
    check: str | Path | None = None,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ImportResult:
    """Turn a checkpoint of TaylorShift's, SwitchHead's or their relatives' authors into ours.

    Sizes are read off the weights' shapes. What shapes do not show comes from a preset, from the training options in
    the file, or from `options`, the fields of `hsm_models.importers.ImportOptions` (heads, active,
    feed_forward_active, positions, …); sources that contradict each other are refused. What nobody says is assumed and
    listed in the result's `facts`.

    Args:
        source: a `.tar`, `.pth`, `.pt` or `.ckpt` training file, a plain state dict, a safetensors file, or a folder as
            transformers writes it (config.json and safetensors, sharded or not). Pickles are read without executing
            anything in them.
        output: the checkpoint to write: one file if it ends in .safetensors, else a folder. A tokenizer that lies in
            the source's folder is copied into it, or beside NAME.safetensors as NAME.tokenizer.SUFFIX.
        layout: "taylor-shift", "switch-head", "moeut", "sigma-moe", "rwkv7" or "based".
        preset: a published configuration that the file must have, such as "listops" or "wikitext103-47m".
        check: an .npz file with inputs and outputs of the author's own run; the model and its exported file in every
            CPU runtime have to agree with it, or nothing is written. See `hsm_export.validate`.
        shard_bytes: in a folder, split larger weights into files of up to so many bytes, as transformers does.
        progress: is called with the name of each phase.
        **options: facts that the file does not show.

    Returns:
        What was written, with the name of every weight on both sides.

    Raises:
        BadInputError: the source is missing, or the output cannot be written.
        UsageError: an option is missing, unknown, or contradicts the file or the preset.
        NumbersDifferError: the recorded run has other numbers.
        hsm_models.errors.CheckpointError: the source is damaged or hostile, or has names left over or missing.
        hsm_models.errors.ConfigError: the sizes in the source contradict each other.
    """
    import torch

    from hsm_models.checkpoint import build_model, fingerprint, save_checkpoint
    from hsm_models.importers import OptionError, read_authors_model

    report = progress or (lambda phase: None)
    source, output = Path(source), Path(output)
    if not source.is_dir():
        require_file(source, "checkpoint")
    _check_output(output)
    if shard_bytes is not None and output.suffix == ".safetensors":
        raise UsageError(f"{output} is one file; shards need a folder", "name an output without .safetensors")
    report("reading the source")
    try:
        imported = read_authors_model(source, layout, _options(options), preset)
    except OptionError as error:
        raise UsageError(f"{source}: {error}", "`hsm-export import --help` lists the options") from error
    digest = _digest(source)
    report("building the model")
    with torch.device("meta"):  # its own weights are not needed
        model = build_model(imported.config)
    model.load_state_dict({name: tensor.float() for name, tensor in imported.weights.items()}, assign=True)
    checked = _checked(model.eval(), check, report) if check is not None else None
    report("writing the checkpoint")
    save_checkpoint(model, output, _metadata(digest, layout, imported.facts), shard_bytes)
    if imported.config.task == "language_model":
        _copy_tokenizer(source, output)
    return ImportResult(
        source=source,
        source_sha256=digest,
        output=output,
        fingerprint=fingerprint(output),
        layout=layout,
        preset=preset,
        config=imported.config.to_dict(),
        parameters=sum(tensor.numel() for tensor in imported.weights.values()),
        names=imported.names,
        ignored=imported.ignored,
        facts=imported.facts,
        check=checked,
    )


def _checked(model: LanguageModel | SequenceClassifier, run: str | Path, report: Progress) -> ValidationResult:
    """Export the model into a scratch folder and compare it, in every runtime, with a recorded run.

    Raises:
        NumbersDifferError: they differ.
        NotJudgedError: the run proves nothing.
    """
    from hsm_models.checkpoint import save_checkpoint

    from .exporting import export
    from .validation import validate

    require_file(run, "the recorded run")
    with tempfile.TemporaryDirectory(prefix="hsm-import-") as scratch:
        checkpoint, file = Path(scratch) / "model.safetensors", Path(scratch) / "model.onnx"
        save_checkpoint(model, checkpoint)
        report("exporting, for the check")
        export(checkpoint, output=file)
        result = validate(file, checkpoint, check=run, progress=report)
    if result.verdict == "not judged":
        raise NotJudgedError(result.summary, "docs/validation.md says what judges")
    if not result.passed:
        raise NumbersDifferError(
            f"the imported model is not the one of {run}: {result.summary}",
            "look at what the import assumed: run it without --check, and see docs/importing.md",
        )
    return result


def _digest(source: Path) -> str:
    """Return the SHA-256 of a file, or of the digests of a folder's weight files in order."""
    from hsm_models.importers.state_file import folder_files

    if not source.is_dir():
        return sha256(source)
    return hashlib.sha256("".join(map(sha256, folder_files(source))).encode()).hexdigest()


def _copy_tokenizer(source: Path, output: Path) -> None:
    """Copy the tokenizers of a source's folder into a folder, else the first of them beside a file, under its name."""
    from hsm_models.tokenizer_files import tokenizer_beside

    from .formats.tokenizer_file import copy_tokenizer

    found = tokenizer_beside(source)
    if found is None or source.resolve() == output.resolve():
        return
    if not output.is_dir():
        copy_tokenizer(found, output)
        return
    for name in {found.name, "tokenizer.json", "tokenizer.model"}:
        if (found.parent / name).is_file() and found.parent.resolve() != output.resolve():
            shutil.copyfile(found.parent / name, output / name)


def _metadata(digest: str, layout: str, facts: tuple[Fact, ...]) -> dict[str, str]:
    """Return what the checkpoint records of its source and of what was assumed."""
    told = {fact.name: {"value": fact.value, "origin": fact.origin} for fact in facts}
    return {
        "source_sha256": digest,
        "source_layout": layout,
        "import_facts": json.dumps(told),
        "assumed": ", ".join(f"{fact.name}={fact.value}" for fact in facts if fact.assumed),
    }


def _options(values: dict[str, Any]) -> Any:
    from dataclasses import fields

    from hsm_models.importers import ImportOptions

    known = [item.name for item in fields(ImportOptions)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError(f"import_checkpoint has no option {', '.join(unknown)}", f"options are {', '.join(known)}")
    return ImportOptions(**values)


def _check_output(output: Path) -> None:
    """Refuse an output that cannot be written before the source is read."""
    if not output.parent.is_dir():
        raise BadInputError(f"cannot write {output}: the directory {output.parent} does not exist", "create it first")
    if output.suffix == ".safetensors" and output.is_dir():
        raise BadInputError(f"cannot write {output}: it is a directory", "name a file inside it")
    if output.suffix != ".safetensors" and output.is_file():
        raise BadInputError(f"cannot write {output}: it is a file", "a checkpoint file's name ends in .safetensors")
