"""Operators from elsewhere: entry points of installed packages, and what the environment names.

An installed package offers its operators through the entry point group `hsm_export.operators`; files and folders that
are not installed are named in the environment variable HSM_EXPORT_OPERATORS, separated as in PATH. Child processes
inherit it, and `hsm-export --operators` sets it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import warnings
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import OperatorError
from .operator import Operator

GROUP = "hsm_export.operators"
VARIABLE = "HSM_EXPORT_OPERATORS"
_PACKAGE = "hsm_export_operators"  # the name under which files and folders are imported

_lock = threading.RLock()
_loaded: set[str] = set()
_entries_done = False


def load_installed() -> None:
    """Register the operators of all entry points, once, and of what the environment names.

    An entry point that fails is warned of: it may have nothing to do with the file at hand.

    Raises:
        OperatorError: what the environment names cannot be loaded.
    """
    global _entries_done
    with _lock:
        if not _entries_done:
            _entries_done = True  # what is being loaded may look for operators too
            for entry in entry_points(group=GROUP):
                _load_entry(entry)
        for source in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
            load(source)


def _load_entry(entry: EntryPoint) -> None:
    try:
        found = entry.load()
        collect(found, f"entry point {entry.name!r}", getattr(sys.modules.get(entry.module), "__file__", None))
    except Exception as error:  # a package of somebody else can fail in any way
        package = f" of {entry.dist.name}" if entry.dist else ""
        warnings.warn(
            f"the operators {entry.value}{package} cannot be loaded: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )


def load(source: str) -> None:
    """Register the operators of a module, a Python file, an operator's folder or a folder of these; once a process.

    Args:
        source: a module's dotted name or a path. An operator's folder has a `spec.py`, and may have a `torch_op.py`.

    Raises:
        OperatorError: there is nothing of that name, or it cannot be imported.
    """
    path = Path(source)
    key = str(path.resolve()) if path.exists() else source
    with _lock:
        if key in _loaded:
            return
        _loaded.add(key)
        try:
            for module in _modules(source, path):
                collect(module, source, module.__file__)
        except BaseException as error:
            _loaded.discard(key)
            if isinstance(error, OperatorError) or not isinstance(error, Exception):
                raise
            raise OperatorError(
                f"the operators of {source} cannot be loaded: {type(error).__name__}: {error}"
            ) from error


def path_of(source: str) -> Path:
    """Return the file or folder that `source`, as `load` takes it, stands for; of a package its folder.

    Raises:
        OperatorError: there is nothing of that name.
    """
    path = Path(source)
    if path.exists():
        return path.resolve()
    found = importlib.util.find_spec(source) if os.sep not in source and path.suffix != ".py" else None
    if found is None or found.origin is None:
        raise OperatorError(f"there is no module and no file {source}", f"see {VARIABLE} and --operators")
    origin = Path(found.origin).resolve()
    return origin.parent if origin.name == "__init__.py" else origin


def _modules(source: str, path: Path) -> list[ModuleType]:
    if path.is_dir():
        if (path / "spec.py").is_file():
            return _folder_modules(path)
        parts = sorted(item for item in path.iterdir() if not item.name.startswith((".", "_")))
        files = [_from_file(item) for item in parts if item.suffix == ".py"]
        folders = [module for item in parts if (item / "spec.py").is_file() for module in _folder_modules(item)]
        if not files and not folders:
            raise OperatorError(f"{source} holds no operators", "name a .py file, or a folder that has a spec.py")
        return files + folders
    if path.suffix == ".py":
        if not path.is_file():
            raise OperatorError(f"there is no file {source}", f"see {VARIABLE} and --operators")
        return [_from_file(path)]
    if os.sep in source or importlib.util.find_spec(source.partition(".")[0]) is None:
        raise OperatorError(f"there is no module and no file {source}", f"see {VARIABLE} and --operators")
    return [importlib.import_module(source)]


def _folder_modules(folder: Path) -> list[ModuleType]:
    """Import an operator's folder as a package, so that its files can import each other."""
    name = f"{_PACKAGE}.{folder.name}"
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        package.__path__ = []
        sys.modules[_PACKAGE] = package
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder.resolve())]
        sys.modules[name] = package
    elif sys.modules[name].__path__ != [str(folder.resolve())]:
        raise OperatorError(f"two folders of operators are called {folder.name}", "rename one of them")
    parts = [part for part in ("spec", "torch_op") if (folder / f"{part}.py").is_file()]
    return [importlib.import_module(f"{name}.{part}") for part in parts]


def _from_file(path: Path) -> ModuleType:
    """Import a file under a name that is the same in every process and can clash with no installed module."""
    name = f"{_PACKAGE}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def collect(found: Any, where: str, origin: str | None = None) -> None:
    """Register what an entry point or a module holds.

    Args:
        found: an `Operator`, the function that `operator` returned, a sequence of these, a module with OPERATORS or
            with such objects, or a function without arguments that registers them or returns them.
        where: what a message calls its source.
        origin: the file that it comes from.

    Raises:
        OperatorError: it is nothing of the kind.
    """
    from .registry import register

    if isinstance(found, Operator):
        register(found, origin=origin)
    elif isinstance(getattr(found, "operator", None), Operator):
        return  # it was registered when it was made
    elif isinstance(found, ModuleType):
        listed = getattr(found, "OPERATORS", None)
        own = [value for value in vars(found).values() if isinstance(value, Operator)]
        collect(own if listed is None else listed, where, found.__file__ or origin)
    elif isinstance(found, (list, tuple)):
        for item in found:
            collect(item, where, origin)
    elif callable(found):
        result = found()
        if result is not None:
            collect(result, where, origin)
    else:
        raise OperatorError(f"{where} is a {type(found).__name__}, which holds no operators")
