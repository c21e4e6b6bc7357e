"""Anyone's operators as a project of CMake: their generated files, and what there is to compile beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..discovery import load, path_of
from ..errors import OperatorError
from ..libraries import KERNELS, home_of
from ..operator import DOMAIN, Operator
from ..registry import operators, origin_of
from .family import NAIVE, Family
from .files import generate

FAMILIES = "families.cmake"
_OWN_PROGRAMS = re.compile(r"(test|bench)_.*")  # beside the kernels, and no part of them


def families_of(source: str) -> list[Family]:
    """Return the operators of a folder, a file or a module that have kernels, by the folders of these.

    Raises:
        OperatorError: it cannot be loaded, holds no operator, or no operator of it has kernels.
    """
    found = operators_of(source)
    groups: dict[Path, list[Operator]] = {}
    for operator in found:
        home = home_of(operator)
        if home is not None and any((home.folder / name).is_file() for name in KERNELS):
            groups.setdefault(home.folder, []).append(operator)
    if not groups:
        home = home_of(found[0])
        assert home is not None
        raise OperatorError(f"no operator of {source} has kernels", f"write {' or '.join(KERNELS)} into {home.folder}")
    return [Family(folder.name, folder, tuple(group)) for folder, group in groups.items()]


def operators_of(source: str) -> list[Operator]:
    """Return the operators that a folder, a file or a module defines.

    Raises:
        OperatorError: it cannot be loaded, or holds no operator.
    """
    load(source)
    path = path_of(source)
    found = [operator for operator in operators() if operator.domain != DOMAIN and _is_within(operator, path)]
    if not found:
        raise OperatorError(f"{source} defines no operators")
    return found


def _is_within(operator: Operator, path: Path) -> bool:
    origin = origin_of(operator)
    return origin is not None and (origin == path or path in origin.parents)


def write_project(sources: Sequence[str], out_dir: Path) -> list[Family]:
    """Write the generated files of operators and `families.cmake`, which `hsm_add_operators` reads.

    Args:
        sources: folders, files or modules.
        out_dir: the folder that they go to.

    Returns:
        What they hold together.

    Raises:
        OperatorError: see `families_of`; or C++ cannot tell two operators apart, or cannot spell one.
    """
    families = [family for source in dict.fromkeys(sources) for family in families_of(source)]
    try:
        generate(families, out_dir)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    origins = {origin_of(operator) for family in families for operator in family.operators}
    lists = {
        "HSM_FAMILY_FOLDERS": [family.folder for family in families],
        "HSM_NAIVE_SOURCES": [family.folder / NAIVE for family in families if family.has(NAIVE)],
        "HSM_CPU_SOURCES": _sources(families, ".cc"),
        "HSM_CUDA_SOURCES": _sources(families, ".cu"),
        "HSM_SPECIFICATIONS": sorted(origin for origin in origins if origin is not None),
    }
    text = "".join(f"set({name}{''.join(map(_quoted, paths))})\n" for name, paths in lists.items())
    (out_dir / FAMILIES).write_text(text, encoding="utf-8")
    return families


def _sources(families: Iterable[Family], suffix: str) -> list[Path]:
    """Return the files of fast kernels, and what else stands beside them to be compiled with them."""
    kernels = {".cc": "cpu.cc", ".cu": "cuda.cu"}[suffix]
    return [
        path
        for family in families
        if family.has(kernels)
        for path in sorted(family.folder.glob(f"*{suffix}"))
        if path.name != NAIVE and not _OWN_PROGRAMS.fullmatch(path.name)
    ]


def _quoted(path: Path) -> str:
    """Return a path as an argument of CMake's."""
    if re.search(r'[\\";$\n]', str(path)):
        raise OperatorError(f"CMake cannot take the path {path}", "move it to one without quotes, $, ; and backslashes")
    return f'\n  "{path}"'
