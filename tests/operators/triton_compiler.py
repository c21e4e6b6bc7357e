"""Compile the Triton kernels of the backward passes for a GPU that is not there, and print what each uses as JSON.

    python tests/operators/triton_compiler.py 90        # compute capability 9.0

Run by test_triton_compiler.py: Triton then compiles for real, where the tests beside the families interpret.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from hsm_operators.expert_matmul import fused as experts
from hsm_operators.shift_mix import fused as shifts
from hsm_operators.taylor_shift import fused as taylor


class NoGpu:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_all(width: int, dtype: torch.dtype) -> None:
    """Run all backward passes on tensors of the CPU, with launches that only compile."""
    q = torch.zeros(1, 64, 2, width, dtype=dtype)
    features = taylor.feature_count(width)
    past = torch.zeros(1, 2, features, width), torch.zeros(1, 2, features)
    for options in ({"direct": True}, {"direct": False}, {"past": past}):
        taylor.gradient(q, q, q, q, torch.ones(2), None, True, **options)
    weight = torch.zeros(2, 4, width, 64, dtype=dtype)
    logits = torch.zeros(1, 64, 2, 4)
    experts.gradient(weight[0, 0, :1].expand(128, 64), q[0, :, 0], logits, weight, 2, shared=4, added=2)
    x = q.flatten(2)
    shifts.gradient(x, [0, 1, 2], x, x[0, 0], x[0, 0], [1, 2])


def main(capability: int) -> None:
    driver.set_active(NoGpu(capability))
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        found = run(self, *arguments, grid=grid, warmup=True, **options)
        products = len(re.findall(r"mma\.sync|wgmma\.mma_async|tcgen05\.mma", found.asm["ptx"]))
        shared, size = found.metadata.shared, len(found.asm["cubin"])
        print(json.dumps({"kernel": self.__name__, "shared": shared, "cubin": size, "products": products}))
        return found

    JITFunction.run = compile_only
    compile_all(64, torch.bfloat16)


if __name__ == "__main__":
    main(int(sys.argv[1]))
