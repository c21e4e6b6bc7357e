"""Times of every tactic at the sizes that the operators are used with, as ratios to peers of the same run.

Peers are PyTorch's own operators for the same function, and what a user would take in its place: FlashAttention for
attention, one dense product for experts, a copy for shifts. Medians of single calls, with the L2 cache written over in
between.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from hsm_operators.case import Case
from hsm_operators.kernels import RefusedError

from .calls import DTYPES, Call, Target, cases, draw, with_kernels

Row = dict[str, Any]
_REPEATS, _WARM_UP = 30, 5
_FLUSHED = 256 << 20  # bytes, more than any L2 cache


def rows(target: Target) -> Iterator[tuple[str, Any]]:
    """Yield the name of each row and a function that measures it."""
    yield "ceilings", lambda: ceilings(target)
    known = {operator.name for operator in with_kernels(target)}
    for case in cases("SMALL" if target.rehearses else "TYPICAL"):
        for precision in DTYPES if case.operator.name in known else ():
            yield f"{case.operator.name} {precision} {case.label}", lambda c=case, p=precision: measure(target, c, p)


def ceilings(target: Target) -> list[Row]:
    """Return what the device reaches at best: a copy, and a large product in bfloat16."""
    size, count = (64, 1 << 12) if target.rehearses else (8192, 1 << 31)
    one, other = (torch.empty(count, dtype=torch.uint8, device=target.device) for _ in range(2))
    copy = median(target, lambda: one.copy_(other))
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=target.device) for _ in range(2))
    product = median(target, lambda: a @ b)
    return [
        {"ceiling": "copy", "bytes_per_second": 2 * count / copy},
        {"ceiling": "bfloat16 product", "flops_per_second": 2 * size**3 / product},
    ]


def measure(target: Target, case: Case, precision: str) -> list[Row]:
    """Return one row for each tactic that takes the call."""
    call = draw(case, {}, DTYPES[precision], target)
    attributes = {a.name: call.attributes[a.name] for a in call.operator.attributes}
    peers = {name: median(target, run) for name, run in _peers(target, call).items()}
    found = []
    for tactic, kernel in target.tactics(case.operator).items():
        outputs = kernel.outputs(call.inputs)
        row = {"operator": case.operator.name, "type": precision, "sizes": call.sizes, "tactic": tactic}
        try:
            seconds = median(target, lambda k=kernel, o=outputs: k.into(call.inputs, attributes, o))
        except RefusedError as error:
            found.append(row | {"verdict": "refused", "why": str(error)})
            continue
        bytes_ = sum(tensor.numel() * tensor.element_size() for tensor in [*call.inputs, *outputs])
        ratios = {f"{name}_over_ours": peer / seconds for name, peer in peers.items()}
        found.append(row | {"seconds": seconds, "bytes_per_second": bytes_ / seconds} | ratios)
    return found


def _peers(target: Target, call: Call) -> dict[str, Callable[[], Any]]:
    peers: dict[str, Callable[[], Any]] = {"pytorch": call.reference}
    names = {port.name: tensor for port, tensor in zip(call.operator.inputs, call.inputs, strict=True)}
    if {"q", "k", "v"} <= set(names) and names["q"].dtype != torch.float32 and names["q"].shape[1] > 1:
        q, k, v = (names[name].transpose(1, 2) for name in ("q", "k", "v"))
        causal = bool(call.operator.states)
        peers["attention"] = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    if "x" in names:
        x = names["x"]
        peers["copy"] = x.clone
        weights = [t for t in call.inputs if t.dim() in (3, 4) and t is not x and t.dtype == x.dtype]
        experts = [t.flatten(0, -3) for t in weights if t.shape[-2] == x.shape[-1] and "E" in call.sizes]
        if experts:
            rows_ = x.reshape(-1, x.shape[-1])
            peers["dense"] = lambda: torch.matmul(rows_, experts[0])
    return peers


def median(target: Target, run: Callable[[], Any]) -> float:
    """Return the median of seconds that a call takes on the device."""
    repeats, warm_up = (2, 1) if target.rehearses else (_REPEATS, _WARM_UP)
    for _ in range(warm_up):
        run()
    target.synchronize()
    return statistics.median(_once(target, run) for _ in range(repeats))


def _once(target: Target, run: Callable[[], Any]) -> float:
    if target.rehearses:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    torch.empty(_FLUSHED, dtype=torch.uint8, device=target.device).zero_()
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    run()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after)) / 1e3
