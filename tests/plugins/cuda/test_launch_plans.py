"""What the CUDA launchers choose at realistic sizes: the report's section, full waves, and room for all sums."""

from __future__ import annotations

import random

import pytest
from tests.plugins.cuda.report import tool
from tests.plugins.native import ROOT, built

REPORT = ROOT / "docs" / "cuda-report.md"


def test_the_section_is_current() -> None:
    report = REPORT.read_text(encoding="utf-8")
    assert tool("launch_plans").with_section(report, built("cuda/hsm_dump_launches")) == report


def test_waves_are_full_and_rounds_equal() -> None:
    plans = tool("launch_plans")
    dump, report = built("cuda/hsm_dump_launches"), REPORT.read_text(encoding="utf-8")
    seen = 0
    for request, gpu, answer, works in plans.plans(dump, report):
        assert answer["error"] == 0
        for work in works:
            seen += 1
            where = f"{request.operator} {request.numbers} on {gpu}: {work.kernel} {work.grids}"
            assert work.resident > 0, f"the table of kernels lacks {work.kernel}"
            assert work.balance >= 0.7, where
            if work.waves > 1 and "finish" not in work.kernel:  # a thousandth of the step before it
                assert work.busy >= 0.75, where
    assert seen > len(plans.large_calls()) * len(plans.GPUS)


@pytest.mark.parametrize("operator", ["TaylorShift", "CausalTaylorShift"])
def test_the_workspace_holds_the_sums_of_a_round(operator: str) -> None:
    plans = tool("launch_plans")
    draw = random.Random(16)
    norms = "normalize=1" if operator.startswith("Causal") else "normalize=1 output_norm=1"
    requests = []
    for _ in range(60):
        width = draw.choice((8, 16, 24, 32, 48, 64, 96, 128))
        sizes = (2 ** draw.randint(0, 6), 2 ** draw.randint(4, 16), draw.randint(1, 32), width, width)
        numbers = " ".join(f"{name}={size}" for name, size in zip("BTHde", sizes, strict=True))
        requests.append(plans.Request(operator, f"{numbers} {norms}"))
    with_sums = 0
    for request, gpu, answer, works in plans.plans(built("cuda/hsm_dump_launches"), "", tuple(requests)):
        for work in (work for work in works if work.kept):
            with_sums += 1
            largest = work.kept * max(work.grids) / sum(work.grids)
            assert largest <= answer["workspace"] <= 2**28 + largest, f"{request} on {gpu}"
    assert with_sums > 60


@pytest.mark.parametrize(
    "line, said",
    [
        ("Nothing bf16 90 132 232448 B=1", "no operator with CUDA kernels"),
        ("TaylorShift int4 90 132 232448 B=1", "no operator with CUDA kernels"),
        ("TaylorShift bf16 90 132 232448 B=1 T=8 H=1 normalize=1 output_norm=0", "no size d"),
        ("TaylorShift bf16 90 132 232448 B=1 T=8 H=1 d=8 e=8 normalize=1", "an attribute is missing"),
    ],
)
def test_a_question_that_means_nothing_is_an_error(line: str, said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        tool("launch_plans").ask(built("cuda/hsm_dump_launches"), [line])


def test_what_the_cache_does_not_hold_of_a_round_goes_through_memory() -> None:
    plans = tool("launch_plans")
    gpu = plans.GPUS["A100"]
    for rounds, bytes_ in ((1, [96 << 20, 192 << 20, 96 << 20]), (3, [0, 0, 0])):
        works = [
            plans.Work(name, (4,) * rounds, 100, 0.0, kept)
            for name, kept in (("accumulate", float(96 << 20)), ("combine", 0.0), ("attend", 0.0))
        ]
        assert plans.spilled_bytes(works, gpu) == bytes_
        assert plans.memory_bytes({"bytes": 7}, works, gpu) == 7 + sum(bytes_)
