"""Precision plans: they meet their target, need all of their nodes, and are cheaper than the rule by operator type."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray

from hsm_export import export
from hsm_export.diffing.precision.planning import plan_precision
from hsm_export.diffing.precision.search import Deviation, PlanSearch
from hsm_export.errors import UsageError
from hsm_export.exporting.source import resolve as resolve_source
from hsm_export.exporting.wide_nodes import read_plan
from hsm_export.formats.precision_plan import PrecisionPlan
from hsm_export.onnx_model.bfloat16 import widen_bfloat16
from hsm_export.runtimes.session import cpu_session
from hsm_models.checkpoint import load_checkpoint, resolve

Array = NDArray[Any]
ZOO = ("hsm-lm", "hsm-hybrid-lm", "baseline-softmax", "taylor-shift-lm", "switch-head-lm", "taylor-shift-digits")


def search(
    harms: dict[str, float], target: float, rule: Collection[str] = (), costs: dict[str, float] | None = None
) -> PlanSearch:
    """Return a search over nodes whose roundings add up as independent ones do."""

    def measure(listed: frozenset[str]) -> Deviation:
        left = sum(harm**2 for name, harm in harms.items() if name not in listed) ** 0.5
        return Deviation(left + 1e-9, left + 1e-9)

    return PlanSearch(
        measure, tuple(harms), costs or dict.fromkeys(harms, 1.0), rule, target, progress=lambda phase: None
    )


def test_the_most_harmful_nodes_are_kept_first() -> None:
    harms = {f"n{index}": 1.0 / (1 + index) for index in range(30)}
    found = search(harms, target=0.79)
    assert found.run() == ("n0",)
    assert found.measured(("n0",)).largest <= 0.79 < found.measured(("n1",)).largest


def test_cost_decides_between_equal_harms() -> None:
    harms = {"cheap": 1.0, "dear": 1.0, "none": 0.1}
    assert search(harms, 1.1, costs={"cheap": 1.0, "dear": 50.0, "none": 1.0}).run() == ("cheap",)


def test_no_node_can_be_left_out_even_if_errors_are_luck() -> None:
    rng = np.random.default_rng(0)
    names = [f"n{index}" for index in range(40)]
    luck: dict[frozenset[str], float] = {}

    def measure(listed: frozenset[str]) -> Deviation:
        exact = (len(names) - len(listed)) / len(names)
        return Deviation(exact * luck.setdefault(listed, float(rng.uniform(0.7, 1.3))), exact)

    found = PlanSearch(measure, names, dict.fromkeys(names, 1.0), names[:25], 0.5, lambda phase: None)
    kept = found.run()
    assert found.measured(kept).largest <= 0.5
    for name in kept:
        assert found.measured([other for other in kept if other != name]).largest > 0.5


def test_nothing_is_listed_where_nothing_needs_to_be() -> None:
    assert search({"a": 0.1, "b": 0.1}, target=1.0).run() == ()


def test_a_target_that_float32_misses_is_refused() -> None:
    with pytest.raises(UsageError, match="float32 errs by 1e-09"):
        search({"a": 0.1, "b": 0.1}, target=1e-10).run()


@pytest.mark.parametrize(
    ("precision", "target", "words"), [("fp32", None, "fp16 or bf16"), ("fp16", 0.0, "positive"), ("fp16", -1.0, "pos")]
)
def test_impossible_questions_are_refused(precision: str, target: float | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan_precision("zoo:taylor-shift-digits", precision, target)


class Small(torch.nn.Module):
    """A norm, products and a softmax: float16 does little harm but in one place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = torch.nn.LayerNorm(16)
        self.up = torch.nn.Linear(16, 32)
        self.down = torch.nn.Linear(32, 4)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.gelu(self.up(self.norm(frames)))
        scores: torch.Tensor = torch.softmax(self.down(hidden) * 8.0, dim=-1)
        return scores


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_given_target_is_met_by_the_exported_file(tmp_path: Path, precision: str) -> None:
    module = Small().eval()
    example = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(3))
    frames = np.random.default_rng(1).standard_normal((3, 20, 16)).astype(np.float32)
    loose = plan_precision(module, precision, 10.0, [{"frames": frames}], example_inputs=(example,))
    assert loose.names == () and loose.target_from == "given"
    target = 0.75 * loose.low.error
    plan = plan_precision(module, precision, target, [{"frames": frames}], example_inputs=(example,))
    assert 0 < len(plan.nodes) < plan.candidates
    assert plan.plan.error <= target < plan.low.error
    plan.write(tmp_path / "plan.json")
    path = tmp_path / "small.onnx"
    export(module, (example,), path, precision=precision, precision_plan=tmp_path / "plan.json")
    low = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}[precision]
    session = cpu_session(widen_bfloat16(onnx.load(path), low=low), tmp_path)
    (actual,) = session.run(None, {"frames": frames})
    exact = module.double()(torch.from_numpy(frames).double()).detach().numpy()
    assert np.abs(actual - exact).max() == pytest.approx(plan.plan.error, rel=1e-6)


def check(plan: PrecisionPlan) -> None:
    assert plan.target == plan.rule.error and plan.target_from == "rule"
    assert plan.plan.error <= plan.target
    assert len(plan.nodes) == plan.plan.nodes < plan.rule.nodes
    assert all(node.without > plan.target for node in plan.nodes)
    assert plan.fp32.error < plan.plan.error / 10
    assert plan.low.milliseconds > 0 and plan.plan.milliseconds > 0


@pytest.mark.slow
def test_the_plan_of_the_smallest_zoo_model_is_cheaper_than_the_rule(tmp_path: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 17, (6, 16))
    plan = plan_precision("zoo:taylor-shift-digits", "bf16", cases=[{"pixels": pixels}])
    check(plan)
    path = tmp_path / "plan.json"
    plan.write(path)
    assert read_plan(path).names == plan.names
    assert plan.summary.startswith(f"{len(plan.nodes)} of {plan.candidates} nodes in fp32")


def exported_error(folder: Path, name: str, precision: str, plan: Path, feeds: list[dict[str, Array]]) -> float:
    """Export with a plan and return the file's largest error, every result rounded as the file says."""
    path = folder / "model.onnx"
    export(f"zoo:{name}", output=path, precision=precision, precision_plan=plan)
    low = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}[precision]
    session = cpu_session(widen_bfloat16(onnx.load(path), low=low), folder)
    module = load_checkpoint(resolve(f"zoo:{name}")).double().eval()
    found = 0.0
    for feed in feeds:
        with torch.no_grad():
            exact = module(*(torch.from_numpy(array) for array in feed.values())).numpy()
        found = max(found, float(np.abs(session.run(None, feed)[0] - exact).max()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ZOO)
def test_exports_obey_the_plan_and_need_all_of_it(tmp_path: Path, name: str, precision: str) -> None:
    """A node is taken off in files that an export really writes; where experts are chosen, the plan alone is."""
    rng = np.random.default_rng(6)
    source = resolve_source(f"zoo:{name}")
    (spec,) = source.arguments.inputs
    assert spec.high is not None
    shape = (24, 17) if name == "taylor-shift-digits" else (2, 24)
    feeds: list[dict[str, Array]] = [{spec.name: rng.integers(0, spec.high + 1, shape)}]
    plan = plan_precision(f"zoo:{name}", precision, cases=feeds)
    check(plan)
    if name == "switch-head-lm":
        return
    path = tmp_path / "plan.json"
    plan.write(path)
    assert exported_error(tmp_path, name, precision, path, feeds) == pytest.approx(plan.plan.error, rel=1e-6)
    for node in plan.nodes[-1:]:
        replace(plan, nodes=plan.nodes[:-1]).write(path)
        assert exported_error(tmp_path, name, precision, path, feeds) == pytest.approx(node.without, rel=1e-6)
        assert node.without > plan.target
