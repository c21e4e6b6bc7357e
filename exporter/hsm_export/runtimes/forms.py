"""TaylorShift's two forms: equal formulas that round differently.

PyTorch evaluates the cheaper one for the length at hand, an exported file holds the efficient one, and a fused kernel
chooses again. So what native precision costs is the larger error of PyTorch's two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def native_forms(module: nn.Module) -> tuple[str | None, ...]:
    """Return the forms in which native precision is measured: None, the module's own, and "efficient" if it differs."""
    return (None, "efficient") if any(mixer.form != "efficient" for mixer in _mixers(module)) else (None,)


@contextlib.contextmanager
def evaluated_in(module: nn.Module, form: str | None) -> Iterator[None]:
    """Make every bidirectional TaylorShift mixer of a module use a form inside the block; None changes nothing."""
    mixers = _mixers(module) if form is not None else []
    before = [mixer.form for mixer in mixers]
    for mixer in mixers:
        mixer.form = str(form)
    try:
        yield
    finally:
        for mixer, own in zip(mixers, before, strict=True):
            mixer.form = own


def _mixers(module: nn.Module) -> list[TaylorShift]:
    from hsm_models.mixers.taylor_shift import TaylorShift

    return [part for part in module.modules() if isinstance(part, TaylorShift) and not part.causal]


if TYPE_CHECKING:
    from hsm_models.mixers.taylor_shift import TaylorShift
