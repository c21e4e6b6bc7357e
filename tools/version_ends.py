"""Run tests with the oldest and the newest versions of Python and of the packages that pyproject.toml admits.

Each end gets an environment of its own in build/versions, with this package but without native libraries. An end whose
Python is not on this machine is left out, and so is one whose packages cannot be had.

    python tools/version_ends.py                 both ends, and a Python between them
    python tools/version_ends.py oldest
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "versions"
SKIPPED = 3  # what check_all.py takes for "skipped"
# Python and packages; torch comes first, as some registries offer its CPU build only by exact version.
NEWEST = (
    "torch", "numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "polygraphy", "safetensors", "click", "jinja2",
    "ml_dtypes", "msgspec", "rich", "sentencepiece", "tokenizers",
)  # fmt: skip
ENDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "oldest": (
        "3.10",
        (
            "torch==2.11.0", "numpy==1.26.4", "onnx==1.19.1", "onnx-ir==1.0.0", "onnxscript==0.7.0",
            "onnxruntime==1.23.2", "polygraphy==0.53.6", "safetensors==0.6.2", "click==8.1.8", "jinja2==3.1.6",
            "ml_dtypes==0.5.4", "msgspec==0.20.0", "rich==13.9.4", "sentencepiece==0.2.0", "tokenizers==0.20.0",
        ),
    ),
    "between": ("3.12", NEWEST),
    "newest": ("3.13", NEWEST),
}  # fmt: skip
TESTS = (
    "tests/models/test_language_model.py",
    "tests/models/test_checkpoint.py",
    "tests/exporter/onnx_model/test_portable.py",
    "tests/exporter/exporting/test_static.py",
    "tests/exporter/exporting/test_explicit_state.py",
    "tests/exporter/exporting/test_missing_forms.py",
    "tests/exporter/exporting/test_recurrent.py",
    "tests/exporter/runtimes/test_open_list.py",
    "tests/exporter/decoding/test_generator.py",
)


def main() -> int:
    """Run the ends that were asked for; return 0 when all tests passed, SKIPPED when none could run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ends", nargs="*", choices=[*ENDS, []], help="which; all when none is named")
    ends = parser.parse_args().ends or list(ENDS)
    outcomes = [run(end) for end in ends]
    ran = [code for code in outcomes if code is not None]
    return max(ran) if ran else SKIPPED


def run(end: str) -> int | None:
    """Test one end; return pytest's exit code, None when the end cannot be made."""
    version, packages = ENDS[end]
    folder = FOLDER / end
    python = folder / "bin" / "python"
    if not python.exists():
        problem = make(version, packages, folder)
        if problem:
            print(f"{end}: {problem}", file=sys.stderr)
            return None
    subprocess.run([*_pip(python), "--no-deps", "--force-reinstall", ROOT], check=True, env=_pure())
    code = "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in %r))"
    names = [package.partition("==")[0] for package in packages]
    print(f"{end}: Python {version},", flush=True)
    subprocess.run([python, "-c", code % names], check=True)
    return subprocess.run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS], cwd=ROOT).returncode


def make(version: str, packages: Sequence[str], folder: Path) -> str | None:
    """Make an environment; return why that is impossible."""
    interpreter = next(interpreters(version), None)
    if interpreter is None:
        return f"there is no Python {version} on this machine"
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin" / "python"
    commands: list[list[str | Path]] = [[interpreter, "-m", "venv", folder], [*_pip(python), *packages]]
    commands.append([*_pip(python), "pytest", "hypothesis", "jsonschema"])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            return f"its environment cannot be made: {done.stderr.strip().splitlines()[-1]}"
    return None


def interpreters(version: str) -> Iterator[str]:
    """Yield what runs as that version of Python."""
    candidates = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True)
        if done.stdout.startswith(f"Python {version}."):
            yield str(candidate)


def _pip(python: Path) -> list[str | Path]:
    return [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _pure() -> dict[str, str]:
    """Return an environment in which the package is built without its native half."""
    return {**os.environ, "SKBUILD_WHEEL_CMAKE": "OFF"}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
