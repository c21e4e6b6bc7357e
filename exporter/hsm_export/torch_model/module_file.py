"""A module that the user's own Python file makes, named `FILE.py:FACTORY`."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

from ..errors import BadInputError, UsageError
from ..files import require_file

if TYPE_CHECKING:
    from torch import nn

_NAMED = re.compile(r"(?P<file>.+\.py):(?P<factory>[A-Za-z_]\w*)", re.DOTALL)


def is_factory(source: object) -> TypeGuard[str | Path]:
    """Return whether `source` names a factory, as in `model.py:make`."""
    return isinstance(source, (str, Path)) and _NAMED.fullmatch(str(source)) is not None


def make_module(source: str | Path) -> nn.Module:
    """Run the file, call the factory without arguments and return what it makes, in evaluation mode.

    The file is the user's own program: it runs with all that it does.

    Raises:
        UsageError: the file has no such function.
        BadInputError: the file is missing, or it or the factory fails, or what it makes is no nn.Module.
    """
    import torch

    factory, path, name = named_object(source), *named_parts(source)
    if not callable(factory):
        raise UsageError(f"{path} has no function {name}", f"define it: def {name}(): return a torch.nn.Module")
    try:
        module = factory()
    except Exception as error:  # whatever the user's program raises
        raise BadInputError(f"{name}() of {path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise BadInputError(f"{name}() of {path} returns a {type(module).__name__}, not a torch.nn.Module")
    return module.eval()


def named_object(source: str | Path) -> Any:
    """Run the file and return what it calls by that name; None where there is nothing of the name.

    Raises:
        BadInputError: the file is missing or fails.
    """
    path, name = named_parts(source)
    return getattr(_imported(path), name, None)


def named_parts(source: str | Path) -> tuple[Path, str]:
    """Return the file and the name of `FILE.py:NAME`.

    Raises:
        BadInputError: the file is missing.
    """
    match = _NAMED.fullmatch(str(source))
    assert match is not None
    return require_file(match["file"], "the Python file"), match["factory"]


def _imported(path: Path) -> ModuleType:
    """Import a file under its own name, with the modules that lie beside it within its reach."""
    folder = str(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # what classes of the file are looked up by
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's program raises
        if before is not None:
            sys.modules[path.stem] = before
        raise BadInputError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    return module
