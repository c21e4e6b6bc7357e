"""Which files are generated, and where they go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .arguments import args_header, bindings_header, cuda_header
from .dispatch import cpu_kernels, cuda_kernels, definitions
from .family import CUDA, Family, check
from .table import opset


def texts(families: Sequence[Family], prefix: str = "") -> dict[str, str]:
    """Return the generated C++ files, by their paths below the folder that they go to.

    Args:
        families: all that one library holds.
        prefix: of the families' folders in `#include`, ending with "/"; "" where the output folder itself is searched.

    Raises:
        ValueError: two operators collide, or a name is none in C++.
    """
    check(families)
    files = {
        "opset.gen.cc": opset(families),
        "cpu_kernels.gen.cc": cpu_kernels(families, prefix),
        "cuda_kernels.gen.cc": cuda_kernels(families, prefix),
        "definitions.gen.cc": definitions(families, prefix),
    }
    for family in families:
        files[f"{family.name}/args.gen.h"] = args_header(family)
        files[f"{family.name}/bindings.gen.h"] = bindings_header(family, prefix)
        if family.has(CUDA):
            files[f"{family.name}/cuda.gen.h"] = cuda_header(family, prefix)
    return files


def generate(families: Sequence[Family], out_dir: Path, prefix: str = "") -> list[Path]:
    """Write the generated C++ files of operators, in any domain, and return their paths.

    A file whose text is already there is left alone, so that nothing is compiled again.

    Args:
        families: all that one library holds, such as `[Family.of(my_package.my_mixer.spec)]`.
        out_dir: the folder that they go to; kernels include `<family>/args.gen.h` and are compiled with it among the
            folders that are searched.
        prefix: as in `texts`.

    Raises:
        ValueError: two operators collide, or a name is none in C++.
    """
    paths = []
    for name, text in texts(families, prefix).items():
        path = out_dir / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths
