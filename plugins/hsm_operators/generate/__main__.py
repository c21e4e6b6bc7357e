"""Rewrites the committed generated files, or names those that are stale."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

from ..registry import families
from .documents import updated
from .examples import examples
from .family import Family, operators_of
from .files import texts
from .functions import functions

ROOT = Path(__file__).resolve().parent.parent
CHECKOUT = ROOT.parent.parent
DOCUMENT = CHECKOUT / "docs" / "opset.md"
FUNCTIONS = CHECKOUT / "models" / "hsm_models" / "ops.py"
PREFIX = "hsm_operators/"


def own_families() -> list[Family]:
    """Return our families."""
    return [_family(package) for package in families()]


def own_files() -> dict[Path, str]:
    """Return the committed generated files by path, with the text that they must have."""
    own = own_families()
    named = texts(own, PREFIX) | {"cases.gen.cc": examples(own)}
    files = {ROOT / name: text for name, text in named.items()}
    if DOCUMENT.is_file():  # not where the package is installed
        files[FUNCTIONS] = functions(own)
        files[DOCUMENT] = updated(DOCUMENT.read_text(encoding="utf-8"), (o for _, o in operators_of(own)))
    return files


def _family(package: str) -> Family:
    """Return one of our families, with its cases if it has any."""
    has_cases = importlib.util.find_spec(f"{package}.cases") is not None
    cases = importlib.import_module(f"{package}.cases") if has_cases else None
    return Family.of(importlib.import_module(f"{package}.spec"), cases)


def stale() -> list[Path]:
    """Return the committed files whose text is another, and those that are no longer generated."""
    files = own_files()
    wrong = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    return wrong + [path for path in sorted(ROOT.rglob("*.gen.*")) if path not in files]


def main() -> int:
    """Write or check the files; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hsm_operators.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when a file is stale")
    parser.add_argument(
        "--operators", nargs="+", metavar="SOURCE", help="write the files of anyone's operators instead"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where these go")
    options = parser.parse_args()
    if options.operators:
        return _write_foreign(options.operators, options.output or Path.cwd())
    wrong, files = stale(), own_files()
    for path in wrong:
        if options.check:
            print(f"{path} is stale; run: python -m hsm_operators.generate", file=sys.stderr)
        elif path in files:
            path.write_text(files[path], encoding="utf-8")
            print(f"wrote {path}")
        else:
            path.unlink()
            print(f"removed {path}, which nothing generates any more")
    return 1 if wrong and options.check else 0


def _write_foreign(sources: list[str], out_dir: Path) -> int:
    from ..errors import OperatorError
    from .project import write_project

    try:
        write_project(sources, out_dir)
    except OperatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
