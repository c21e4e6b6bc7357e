"""Every tactic of every CUDA kernel in every type against float64, on poisoned outputs, twice for equal bits.

A kernel may err by twice what PyTorch's own operators in the same type do, or by 8 units in the last place of the
largest number. What float32 carries on from float16 and bfloat16 reaches tensor cores as two bfloat16 planes, which
keep 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hsm_operators import Operator, expression
from hsm_operators.cuda_kernels import CudaKernel
from hsm_operators.kernels import RefusedError

from .calls import DTYPES, Call, Target, draw, small_case, with_kernels

Row = dict[str, Any]
_UNITS = 8
# Tokens, widths, and whether tensors are misaligned: whole tiles, nothing whole, and long.
_SHAPES = {"step": (1, 64, False), "tiles": (128, 64, False), "odd": (77, 37, True), "long": (1500, 32, False)}
_REHEARSED = {"step": (1, 16, False), "tiles": (16, 16, False), "odd": (9, 5, True), "long": (300, 8, False)}


def rows(target: Target) -> Iterator[tuple[str, Any]]:
    """Yield the name of each row and a function that measures it."""
    for operator in with_kernels(target):
        for shape in _REHEARSED if target.rehearses else _SHAPES:
            for precision in DTYPES:
                name = f"{operator.name} {precision} {shape}"
                yield name, lambda o=operator, p=precision, s=shape: measure(target, o, p, s)


def measure(target: Target, operator: Operator, precision: str, shape: str) -> list[Row]:
    """Return one row for each tactic that takes the call."""
    length, width, misaligned = (_REHEARSED if target.rehearses else _SHAPES)[shape]
    case, dtype = small_case(operator), DTYPES[precision]
    ruled = {name for rule in operator.rules for name in expression.names(rule.condition)}
    wide = {name: width for name, size in operator.sizes.items() if "width" in size.words and name not in ruled}
    call = draw(case, {"B": 1 if shape == "long" else 3, "T": length, **wide}, dtype, target, misaligned)
    truth, native = call.reference(torch.float64), call.reference()
    found = []
    for tactic, kernel in target.tactics(operator).items():
        row = {"operator": operator.name, "type": precision, "shape": shape, "tactic": tactic, "sizes": call.sizes}
        try:
            found.append(row | _judged(target, call, kernel, truth, native))
        except RefusedError as error:
            found.append(row | {"verdict": "refused", "why": str(error)})
    return found


def _judged(target: Target, call: Call, kernel: CudaKernel, truth: list[Tensor], native: list[Tensor]) -> Row:
    attributes = {a.name: call.attributes[a.name] for a in call.operator.attributes}
    runs = []
    for _ in range(2):
        outputs = [poisoned(tensor) for tensor in kernel.outputs(call.inputs)]
        kernel.into([tensor.contiguous() for tensor in call.inputs], attributes, outputs)
        target.synchronize()
        runs.append([_specified(call, index, tensor) for index, tensor in enumerate(outputs)])
    own = call.inputs[0].dtype
    worst = 0.0
    for index, value in enumerate(runs[0]):
        right, other = _specified(call, index, truth[index]), _specified(call, index, native[index])
        if not value.numel():
            continue
        eps = torch.finfo(value.dtype).eps if value.dtype == own else 2**-16
        allowed = 2 * (other - right).abs().max() + _UNITS * eps * right.abs().max()
        worst = max(worst, float((value.double() - right).abs().max().nan_to_num(torch.inf) / allowed))
    same = all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    verdict = "differs" if worst > 1 else "same" if same else "other bits each time"
    return {"verdict": verdict, "error_of_allowed": worst}


def poisoned(tensor: Tensor) -> Tensor:
    """Fill a tensor with NaN."""
    return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor.fill_(-1)


def _specified(call: Call, index: int, output: Tensor) -> Tensor:
    """Return what the operator specifies of an output: valid tokens alone."""
    lengths, time = call.lengths, call.operator.outputs[index].shape[1:2]
    if lengths is None or time != ("T",):
        return output
    return output[torch.arange(output.shape[1], device=output.device) < lengths[:, None]]
