"""Run the zoo's files in runtimes that other people wrote, and write docs/runtime-matrix.md.

Each runtime gets an environment of its own in build/runtimes with the versions of PEERS. `hsm-export validate` runs it
on every zoo model in fp32 and fp16, whole sequences and decoding, and judges it by the tolerance that it derives. What
each run saw is kept in build/runtimes/results.json, from which the table is made; so some runs can be made later.

Examples:
    python tools/runtime_matrix.py                          all that has no result yet (hours on two cores)
    python tools/runtime_matrix.py --runtime tract mnn      these runtimes, again
    python tools/runtime_matrix.py --model hsm-lm --whole   whole sequences of one model
    python tools/runtime_matrix.py --report                 run nothing, write the table
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "runtimes"
RESULTS = FOLDER / "results.json"
REPORT = ROOT / "docs" / "runtime-matrix.md"
SKIPPED = 3  # what check_all.py takes for "skipped"
# Seconds that one file may take in one runtime; compilers take most of it.
LIMIT = 1200


@dataclass(frozen=True)
class Peer:
    """A runtime of one version.

    Attributes:
        title: what the table calls it.
        name: what `validate` calls it, without its place.
        packages: what pip, or npm, installs.
        portable: it needs files without functions (`export --portable`).
        slow: it compiles for each size: it gets one size instead of several.
    """

    title: str
    name: str
    packages: tuple[str, ...]
    portable: bool = True
    slow: bool = False

    @property
    def folder(self) -> Path:
        """Where its environment is."""
        return FOLDER / f"{self.title.replace(' ', '-').lower()}"

    @property
    def runtime(self) -> str:
        """What `validate` calls it, with its place."""
        return f"{self.name}@{self.folder if self.javascript else self.folder / 'bin' / 'python'}"

    @property
    def javascript(self) -> bool:
        """Whether it runs in Node.js."""
        return self.name.startswith("onnxruntime-")


def _onnx_runtime(version: str, numpy: str = "2.4.6") -> Peer:
    return Peer(f"ONNX Runtime {version}", "ort", (f"onnxruntime=={version}", f"numpy=={numpy}"), portable=False)


NUMPY, ONNX = "numpy==2.4.6", "onnx==1.23.2"
PEERS = (
    _onnx_runtime("1.17.3", "1.26.4"),
    _onnx_runtime("1.19.2"),
    _onnx_runtime("1.21.1"),
    _onnx_runtime("1.23.2"),
    _onnx_runtime("1.26.0"),
    _onnx_runtime("1.32.0"),
    Peer("onnxruntime-node 1.30.0", "onnxruntime-node", ("onnxruntime-node@1.30.0",), portable=False),
    Peer("onnxruntime-web 1.30.0", "onnxruntime-web", ("onnxruntime-web@1.30.0",), portable=False),
    Peer("OpenVINO 2026.4.1", "openvino", ("openvino==2026.4.1", NUMPY)),
    Peer("MNN 3.6.1", "mnn", ("MNN==3.6.1", ONNX, NUMPY)),
    Peer("tract 0.23.9", "tract", ("tract==0.23.9", NUMPY)),
    Peer("IREE 3.13.0", "iree", ("iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0", ONNX, NUMPY), slow=True),
    Peer("TVM 0.27.0", "tvm", ("apache-tvm==0.27.0.post1", ONNX, NUMPY), slow=True),
)
MODELS = ("hsm-lm", "hsm-hybrid-lm", "switch-head-lm", "taylor-shift-lm", "taylor-shift-digits", "baseline-softmax")
PRECISIONS = ("fp32", "fp16")
SHAPES = ("1x1", "2x33", "1x130")
PAGE = """# Runtimes that run the files

Written by `tools/runtime_matrix.py`; do not edit. Each runtime is the package of its registry, in an environment of its
own. `hsm-export validate` fed it the zoo's models and held it to PyTorch in float64, with the tolerance that it derives
([validation.md](validation.md#the-tolerance)). A number is the largest absolute error of the logits (about 10), in fp32
and in fp16; **fails** refers to the causes below; an empty cell was not run.

ONNX Runtime, in Python and JavaScript, ran the files as `export` writes them, with function bodies; the others ran what
`export --portable` writes. Sequences were {shapes} (batch and length), each with adversarial values; {one} alone in
{compilers}, which compile for each size.

## Whole sequences

{whole}

## Decoding

Prompts, chunks and single steps with the state, against one pass over everything.

{decode}

## bfloat16

hsm-lm in bfloat16 as it is written, whole sequences. ONNX Runtime gets the copy that computes in float32
(`--cpu-file`), because it has no products in bfloat16 on CPUs.

{bfloat16}

## Causes

{causes}

## What the runtimes say of themselves

{versions}
"""
# Runs of runtimes that are known to fail, and why: what the runtime itself says is not always the reason.
CAUSES: dict[tuple[str, str], str] = {
    ("tvm", "should be"): "TVM adds the terms of float16 products in float16: 4,096 ones add up to 2,048.",
    ("mnn", "returns no"): "What its converter makes of a bfloat16 file has no outputs.",
}


@dataclass(frozen=True)
class Cell:
    """A runtime on a file."""

    peer: Peer
    model: str
    precision: str
    decode: bool

    @property
    def key(self) -> str:
        """What it is called among the results."""
        return f"{self.peer.title}/{self.model}/{self.precision}/{'decode' if self.decode else 'whole'}"

    @property
    def file(self) -> Path:
        """The file that is run."""
        kind = f"{'-decode' if self.decode else ''}{'-portable' if self.peer.portable else ''}"
        return FOLDER / "models" / f"{self.model}-{self.precision}{kind}.onnx"


def cells(models: Sequence[str] = MODELS, decode: Sequence[bool] = (False, True)) -> Iterator[Cell]:
    """Yield every run, the quick ones first."""
    if MODELS[0] in models and False in decode:
        yield from (Cell(peer, MODELS[0], "bf16", False) for peer in PEERS)
    for decoding, model, precision, peer in itertools.product(decode, models, PRECISIONS, PEERS):
        if not (decoding and model == "taylor-shift-digits"):  # a classifier
            yield Cell(peer, model, precision, decoding)


def grouped(wanted: Iterable[Cell]) -> list[list[Cell]]:
    """Return the cells that one call of `validate` judges: those of one file, but compilers alone."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in wanted:
        groups.setdefault((cell.file, cell.peer.title if cell.peer.slow else ""), []).append(cell)
    return sorted(groups.values(), key=lambda group: (group[0].decode, group[0].peer.slow))


def install(peer: Peer) -> str | None:
    """Make its environment where there is none; return why that is impossible."""
    if peer.folder.exists():
        return None
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = peer.folder.with_name(f"{peer.folder.name}.new")
    shutil.rmtree(made, ignore_errors=True)
    if peer.javascript:
        if shutil.which("npm") is None:
            return "npm is not installed"
        made.mkdir()
        commands: list[list[Any]] = [
            ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", made]
        ]
        commands[0] += peer.packages
    else:
        pip = [made / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        commands = [[sys.executable, "-m", "venv", made], [*pip, *peer.packages]]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"{peer.title} cannot be installed: {_last(done.stderr)}"
    made.rename(peer.folder)
    if not peer.javascript:  # its scripts hold the old path, its interpreter does not
        return None
    return None


def export(cell: Cell) -> str | None:
    """Export the file where there is none; return why that failed."""
    if cell.file.exists():
        return None
    cell.file.parent.mkdir(parents=True, exist_ok=True)
    options = [*(["--decode"] if cell.decode else []), *(["--portable"] if cell.peer.portable else [])]
    command = [_program(), "export", f"zoo:{cell.model}", "-o", cell.file, "--precision", cell.precision, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return f"export failed: {_last(done.stderr)}" if done.returncode else None


def judge(group: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Validate one file in some runtimes; return for each cell the verdict, the error and the reason of a failure."""
    cell = group[0]
    shapes = () if cell.model == "taylor-shift-digits" else SHAPES[1:2] if cell.peer.slow else SHAPES
    runtimes = ",".join(one.peer.runtime for one in group)
    command = [_program(), "validate", cell.file, "--against", f"zoo:{cell.model}", "--runtimes", runtimes, "--json"]
    command += [word for shape in shapes for word in ("--shape", shape)]
    if cell.decode:
        command += ["--steps", "4"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT * len(group))
    except subprocess.TimeoutExpired:
        reason = f"not done within {LIMIT // 60} minutes"
        return {one.key: {"verdict": "failed", "reason": reason, "error": 0.0} for one in group}
    try:
        found = json.loads(done.stdout)
    except json.JSONDecodeError:
        return {one.key: {"verdict": "failed", "reason": _last(done.stderr), "error": 0.0} for one in group}
    runs = {run["runtime"]: run for run in found["runtimes"]}
    return {one.key: _summary(one, runs[one.peer.runtime], found["notes"]) for one in group}


def _summary(cell: Cell, run: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """Keep of a runtime's report what the table says."""
    name, title = cell.peer.runtime, cell.peer.title
    said = next((note.removeprefix(f"{name}: ") for note in notes if note.startswith(f"{name}: ")), "")
    worst = max(run["worst"], key=lambda one: one["errors"]["max_abs"] / (one["threshold"]["value"] or 1), default=None)
    return {
        "verdict": run["verdict"],
        "error": run["max_abs_error"],
        "allowed": worst and worst["threshold"]["value"],
        "reason": (run["reason"] or run["departs"] or "").replace(f"{name} cannot", "cannot").replace(name, title),
        "inexact": run["decoding"]["inexact"] if run["decoding"] else [],
        "seconds": run["seconds"],
        "said": said,
    }


def _program() -> Path:
    return Path(sys.executable).with_name("hsm-export")


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["no reason"])[-1].strip()


def results() -> dict[str, dict[str, Any]]:
    """Return what earlier runs saw."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep(key: str, found: dict[str, Any]) -> None:
    """Add what one run saw."""
    known = {**results(), key: found}
    scratch = RESULTS.with_suffix(".new")
    scratch.write_text(json.dumps(known, indent=1))
    scratch.replace(RESULTS)


def report(found: dict[str, dict[str, Any]]) -> str:
    """Turn what was seen into the Markdown page."""
    causes: list[str] = []
    whole, decode = ("\n".join(_table(found, decoding, causes)) for decoding in (False, True))
    versions = sorted({f"- {key.partition('/')[0]}: {run['said']}" for key, run in found.items() if run.get("said")})
    return PAGE.format(
        shapes=", ".join(SHAPES),
        one=SHAPES[1],
        compilers=" and ".join(peer.title for peer in PEERS if peer.slow),
        whole=whole,
        decode=decode,
        bfloat16="\n".join(_bfloat16(found, causes)),
        causes="\n".join(f"{number}. {cause}" for number, cause in enumerate(causes, 1)) or "None failed.",
        versions="\n".join(versions),
    )


def _table(found: dict[str, dict[str, Any]], decode: bool, causes: list[str]) -> list[str]:
    models = [model for model in MODELS if not (decode and model == "taylor-shift-digits")]
    lines = [f"| runtime | {' | '.join(models)} |", f"| --- |{' --- |' * len(models)}"]
    for peer in PEERS:
        texts = []
        for model in models:
            runs = [found.get(Cell(peer, model, precision, decode).key) for precision in PRECISIONS]
            texts.append(" / ".join(_text(peer, model, run, causes) for run in runs) if any(runs) else "")
        if any(texts):
            lines.append(f"| {peer.title} | {' | '.join(texts)} |")
    return lines


def _bfloat16(found: dict[str, dict[str, Any]], causes: list[str]) -> list[str]:
    lines = ["| runtime | error |", "| --- | --- |"]
    for peer in PEERS:
        run = found.get(Cell(peer, MODELS[0], "bf16", False).key)
        if run is not None:
            lines.append(f"| {peer.title} | {_text(peer, MODELS[0], run, causes)} |")
    return lines


def _text(peer: Peer, model: str, run: dict[str, Any] | None, causes: list[str]) -> str:
    if run is None:
        return ""
    if run["verdict"] == "passed":
        return f"{run['error']:.1e}"
    reason = run["reason"] or "; ".join(run["inexact"])
    known = next((text for (name, words), text in CAUSES.items() if name == peer.name and words in reason), "")
    cause = f"{peer.title}: `{reason[:200]}`" + (f" {known}" if known else "")
    if cause not in causes:
        causes.append(cause)
    return f"**fails** ({causes.index(cause) + 1})"


def main() -> int:
    """Run what was asked for; return 0 unless a whole sequence failed without a known cause."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", nargs="+", metavar="NAME", help="titles or names of runtimes, to run again")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--whole", action="store_true", help="whole sequences only")
    parser.add_argument("--report", action="store_true", help="run nothing, write the table")
    options = parser.parse_args()
    wanted = [] if options.report else list(cells(options.model, (False,) if options.whole else (False, True)))
    done = results()
    if options.runtime:
        names = options.runtime
        wanted = [one for one in wanted if one.peer.name in names or any(map(one.peer.title.startswith, names))]
    else:
        wanted = [one for one in wanted if one.key not in done]
    for group in grouped(
        one for one in wanted if not (problem := install(one.peer)) or print(problem, file=sys.stderr)
    ):
        if problem := export(group[0]):
            print(f"{group[0].file.name}: {problem}", file=sys.stderr)
            continue
        for key, found in judge(group).items():
            print(f"{key}: {found['verdict']} {found['error']:.1e} {found['reason']}", flush=True)
            keep(key, found)
        REPORT.write_text(report(results()), encoding="utf-8")
    if options.report:
        REPORT.write_text(report(results()), encoding="utf-8")
    unexplained = [key for key, found in results().items() if found["verdict"] == "failed" and not found.get("reason")]
    return int(bool(unexplained))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
