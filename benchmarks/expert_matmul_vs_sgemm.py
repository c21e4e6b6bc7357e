"""ExpertMatMul and ExpertMatMulSum, fused, against the matrix product rate, and their cost against k and E."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from hsm_models.ops import expert_matmul, expert_matmul_sum
from hsm_operators import make_node

HEADS, WIDTH, HEAD_WIDTH = 4, 512, 64
TORCH = {"ExpertMatMul": expert_matmul, "ExpertMatMulSum": expert_matmul_sum}


def main() -> None:
    """Measure both operators."""
    quick = common.arguments(__doc__ or "")
    report = common.Report(Path(__file__).stem, quick)
    length = 64 if quick else 2048
    for operator in TORCH:
        share(report, operator, length, quick)
        costs(report, operator, length, quick)
    report.finish()


def share(report: common.Report, operator: str, length: int, quick: bool) -> None:
    """Compare the rate of the active experts' flops with that of square matrix products."""
    active = 2
    calls, error = prepare(operator, length, 8, active, bodies=True)
    products, flops = common.sgemm_calls(256 if quick else 1024)
    times = common.take_turns({**calls, **products}, 2 if quick else 11)
    rate = 2.0 * length * HEADS * active * WIDTH * HEAD_WIDTH / times["fused"].median
    limit = common.sgemm_rate(times, flops)
    report.row(
        operator=operator,
        tokens=length,
        fused_ms=times["fused"].median * 1e3,
        gflops=rate / 1e9,
        sgemm_gflops=limit / 1e9,
        share=rate / limit,
        body_over_fused=times["body"].median / times["fused"].median,
        torch_over_fused=times["torch"].median / times["fused"].median,
        error=error,
    )
    report.at_least(f"{operator} fused, share of the sgemm rate", rate / limit, 0.7)


def costs(report: common.Report, operator: str, length: int, quick: bool) -> None:
    """Compare times with more active experts, and with more experts to choose from."""
    shapes = {"k=1": (8, 1), "k=2": (8, 2), "k=4": (8, 4), "E=4": (4, 2), "E=16": (16, 2), "E=32": (32, 2)}
    calls = {name: prepare(operator, length, experts, active)[0]["fused"] for name, (experts, active) in shapes.items()}
    times = {name: spread.median for name, spread in common.take_turns(calls, 2 if quick else 11).items()}
    for name in shapes:
        report.row(operator=operator, shape=name, fused_ms=times[name] * 1e3)
    report.at_most(f"{operator} fused, time with k = 4 over k = 1, divided by 4", times["k=4"] / times["k=1"] / 4, 1.15)
    report.at_most(f"{operator} fused, time with 16 experts over 4 experts", times["E=16"] / times["E=4"], 1.25)


def prepare(
    operator: str, length: int, experts: int, active: int, *, bodies: bool = False
) -> tuple[dict[str, Any], float]:
    """Check one shape; return the contestants and the largest error. Without `bodies` the fused one only."""
    rng = np.random.default_rng(experts * 10 + active)
    shape = (1, length, WIDTH) if operator == "ExpertMatMul" else (1, length, HEADS, HEAD_WIDTH)
    outputs = (1, length, HEADS, HEAD_WIDTH) if operator == "ExpertMatMul" else (1, length, WIDTH)
    weight = common.random(rng, HEADS, experts, *((WIDTH, HEAD_WIDTH)[:: 1 if operator == "ExpertMatMul" else -1]))
    feed = {"x": common.random(rng, *shape), "logits": common.random(rng, 1, length, HEADS, experts)}
    nodes = [make_node(operator, ["x", "logits", "weight"], ["y"], "experts", k=active)]
    tensors = [torch.from_numpy(array) for array in (feed["x"], feed["logits"], weight)]
    calls: dict[str, Any] = {"fused": common.node(nodes, feed, {"y": outputs}, weights={"weight": weight}, fused=True)}
    reference = TORCH[operator](*(tensor.double() for tensor in tensors), active).numpy()
    native = TORCH[operator](*tensors, active).numpy()
    error = common.check(operator, calls["fused"].result(), reference, native)
    if bodies:
        calls["body"] = common.node(nodes, feed, {"y": outputs}, weights={"weight": weight})
        common.check(f"body of {operator}", calls["body"].result(), reference, native)
        calls["torch"] = lambda: TORCH[operator](*tensors, active)
    return calls, error


if __name__ == "__main__":
    main()
