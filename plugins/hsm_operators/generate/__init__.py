"""Writes what C++ knows of operators, and their tables in the documentation, from the specifications.

    python -m hsm_operators.generate            # rewrite the committed files
    python -m hsm_operators.generate --check    # name those that are stale; exit code 1 if there are any

`generate` does the same for anyone's operators, in any domain, in a folder of their own. Written are, for each family
of operators, `args.gen.h` (what its kernels take, and their declarations), `cuda.gen.h` where it has CUDA kernels, and
`bindings.gen.h` (from a call's tensors to those arguments); and, for all of them together, `opset.gen.cc` (the table
behind every adapter) and one table of functions for each kind of kernel.
"""

from __future__ import annotations

from .family import Family
from .files import generate, texts

__all__ = ["Family", "generate", "texts"]
