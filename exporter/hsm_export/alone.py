"""The lock of what all threads of a process share."""

from __future__ import annotations

import threading

# Held while something of a package is changed that all threads see: PyTorch's default type, its functions and fused
# kernels, the rules of onnxscript. Who exports or compares in several threads waits here for the others.
ALONE = threading.RLock()
