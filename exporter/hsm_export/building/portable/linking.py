"""Let TensorRT-RTX find itself by the name under which its parser looks for plugins.

The wheel of TensorRT-RTX 1.7 brings `libtensorrt_rtx.so.1`, but its parser opens `libtensorrt_rtx.so` at the first
plugin, and ends the process when nothing has that name. The loader reads its search path when a process starts, so
this is done for a process that is about to start.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

_NAME = "libtensorrt_rtx.so"


def search_path(directory: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Link the library into a directory and return the variables with which a process finds it there.

    Args:
        directory: an existing directory that outlives the process.
        environment: the variables that the process would get.

    Returns:
        The changed variables; none where the library is not installed or has that name already.
    """
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    libraries = [library for folder in folders for library in sorted(folder.glob(f"{_NAME}.*"))]
    if not libraries or (libraries[0].parent / _NAME).exists():
        return {}
    link = directory / _NAME
    if not link.exists():
        link.symlink_to(libraries[0])
    path = [str(directory), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": os.pathsep.join(path)}
