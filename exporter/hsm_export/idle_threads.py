"""What threads do that wait for work.

Those of OpenMP (PyTorch), OpenBLAS (NumPy) and ONNX Runtime spin on their cores between two products, OpenBLAS's for a
tenth of a second. A command runs all three in one process, one after the other: most of its processor time would be
such waiting, and each library would wait for cores on which those of another one still spin.
"""

from __future__ import annotations

import os

# Read when these libraries are loaded. OpenBLAS cannot wait without spinning; what NumPy multiplies here is small.
_LIBRARIES = {"GOMP_SPINCOUNT": "0", "OPENBLAS_NUM_THREADS": "1"}


def let_idle_threads_sleep() -> None:
    """Let threads that wait sleep, in this process and in those that it starts; what the user has set stays.

    It works for libraries that are not loaded yet; ONNX Runtime's sessions are made so (see `runtimes.session`).
    """
    for name, value in _LIBRARIES.items():
        os.environ.setdefault(name, value)
