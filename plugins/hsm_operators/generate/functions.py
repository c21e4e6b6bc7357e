"""`hsm_models.ops`: the PyTorch functions of all families in one module that type checkers and editors can read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..registry import part_of
from .family import Family

_HEAD = '''"""The operators of domain `hsm` as PyTorch functions; the folders of `hsm_operators` define them.

Written by `python -m hsm_operators.generate` from the specifications; changes are lost.
"""

'''
# What is not of one family.
_SHARED = {"hsm_operators.routing": ["force_routing", "record_routing"]}


def functions(families: Sequence[Family]) -> str:
    """Return the module's text: of each family what its `torch_op` says in `__all__`, else its operators' functions.

    Raises:
        ValueError: two families have a function of one name.
    """
    modules = dict(_SHARED)
    for family in families:
        module = part_of(family.operators[0], "torch_op")
        if module is not None:
            own = [operator.torch_name for operator in family.operators]
            modules[module.__name__] = sorted(getattr(module, "__all__", own))
    names = [name for found in modules.values() for name in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two families have functions called {', '.join(sorted(twice))}")
    imports = "".join(f"from {module} import (\n{_lines(modules[module])})\n" for module in sorted(modules))
    quoted = _lines(f'"{name}"' for name in sorted(names))
    return f"{_HEAD}{imports}\n__all__ = [\n{quoted}]\n"


def _lines(words: Iterable[str]) -> str:
    return "".join(f"    {word},\n" for word in words)
