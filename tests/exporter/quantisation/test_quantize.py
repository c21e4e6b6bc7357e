"""A quantised file keeps its budget on inputs that the search never saw, carries its plan, and means what it should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.exporter.quantisation.networks import VOCABULARY, classifier, experts, language_model

from hsm_export import inspect, quantize, validate
from hsm_export.cli import run
from hsm_export.errors import BadInputError, UsageError
from hsm_export.formats.quantisation_plan import Budget, Dialect, Objective
from hsm_export.onnx_model.model_file import open_model
from hsm_export.onnx_model.quantisation_record import plan_in
from hsm_export.quantisation.forms import block_of
from hsm_export.quantisation.rewriting import rewritten
from hsm_export.quantisation.rounding import nearest
from hsm_export.quantisation.weights import find_weights

pytestmark = pytest.mark.usefixtures("short_calibration")


@pytest.fixture
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from hsm_export.quantisation import calibration

    monkeypatch.setattr(calibration, "LENGTH", 24)
    yield


@pytest.fixture
def lm(tmp_path: Path) -> Path:
    return language_model(tmp_path / "lm.onnx")


def _tokens(seed: int, rows: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (rows, 24))


def _logits(path: Path, tokens: np.ndarray) -> np.ndarray:
    from hsm_export.quantisation.sessions import open_session

    return np.asarray(open_session(onnx.load(path)).run(["logits"], {"tokens": tokens})[0], np.float64)


def _kl(first: np.ndarray, second: np.ndarray) -> float:
    from hsm_export.comparison.distributions import divergences, log_softmax

    return float(divergences(log_softmax(first), log_softmax(second)).mean())


@pytest.mark.parametrize("dialect", ["ort", "qdq"])
@pytest.mark.parametrize("budget", ["kl=1e-4", "kl=1e-2", "top1=0.97"])
def test_a_budget_is_kept_on_inputs_that_the_search_never_saw(lm: Path, budget: str, dialect: Dialect) -> None:
    made = lm.with_name("made.onnx")
    result = quantize(lm, made, budget, dialect=dialect)
    tokens = _tokens(99)
    before, after = _logits(lm, tokens), _logits(made, tokens)
    if budget.startswith("kl"):
        assert 0 < _kl(before, after) <= result.plan.budget.limit
    else:
        assert (before.argmax(-1) == after.argmax(-1)).mean() >= result.plan.budget.limit
    assert result.plan.held_out.bound <= result.plan.budget.harm
    assert made.stat().st_size < lm.stat().st_size / 2
    stored = {item.name for item in onnx.load(made).graph.initializer}
    for item in result.plan.weights:
        assert (item.form == "fp32") == (item.name in stored)
        worse = item.without is None or item.without > result.plan.target
        assert worse or item.without_guide > result.plan.ceiling  # type: ignore[operator]


def test_the_file_carries_its_plan_and_inspect_shows_the_bits(lm: Path) -> None:
    made = lm.with_name("made.onnx")
    plan = quantize(lm, made, "kl=1e-2").plan
    assert plan_in(open_model(made)).to_dict() == plan.to_dict()  # type: ignore[union-attr]
    found = inspect(made)
    assert found.quantisation.to_dict() == plan.to_dict()  # type: ignore[attr-defined]
    assert found.parameters == inspect(lm).parameters  # type: ignore[attr-defined]
    assert 4 < plan.bits < 16
    for item in plan.weights:
        sizes = [
            t for t in onnx.load(made).graph.initializer if t.name.startswith(f"{item.name}.") and "shape" not in t.name
        ]
        assert sum(len(t.raw_data) for t in sizes) == item.bytes


def test_a_plan_is_obeyed_to_the_byte(lm: Path) -> None:
    first, second = lm.with_name("first.onnx"), lm.with_name("second.onnx")
    plan = quantize(lm, first, "kl=1e-2").plan
    plan.write(lm.with_name("plan.json"))
    quantize(lm, second, plan=lm.with_name("plan.json"))
    graphs = [onnx.load(path).graph.SerializeToString() for path in (first, second)]
    assert graphs[0] == graphs[1]
    text = json.loads(lm.with_name("plan.json").read_text(encoding="utf-8"))
    text["budget"]["limit"] = 1e-9
    lm.with_name("plan.json").write_text(json.dumps(text), encoding="utf-8")
    with pytest.raises(BadInputError, match="breaks kl=1e-09"):
        quantize(lm, second, plan=lm.with_name("plan.json"))
    text["weights"] = text["weights"][1:]
    lm.with_name("plan.json").write_text(json.dumps(text), encoding="utf-8")
    with pytest.raises(BadInputError, match="do not have the same weights"):
        quantize(lm, second, plan=lm.with_name("plan.json"))


@pytest.mark.parametrize("objective", ["decode", "prefill"])
def test_objectives_choose_other_forms(tmp_path: Path, objective: Objective) -> None:
    path, made = classifier(tmp_path / "c.onnx"), tmp_path / "made.onnx"
    x = np.random.default_rng(5).standard_normal((256, 32)).astype(np.float32)
    plan = quantize(path, made, "error=0.05", objective=objective, calibration={"x": x}).plan
    operators = {node.op_type for node in onnx.load(made).graph.node}
    assert ("MatMulNBits" if objective == "decode" else "DynamicQuantizeMatMul") in operators
    assert plan.held_out.error <= 0.05


@pytest.mark.parametrize(
    ("objective", "budget", "activations"), [("decode", "kl=1e-2", "int8"), ("decode", "kl=1e-9", "float32"),
    ("size", "kl=1e-2", "float32")],
)  # fmt: skip
def test_activations_are_rounded_for_speed_where_the_budget_allows_it(
    lm: Path, objective: Objective, budget: str, activations: str
) -> None:
    made = lm.with_name("made.onnx")
    plan = quantize(lm, made, budget, objective=objective).plan
    products = [_attributes(node) for node in onnx.load(made).graph.node if node.op_type == "MatMulNBits"]
    assert plan.activations == activations
    assert all((item.get("accuracy_level") == 4) == (activations == "int8") for item in products)
    # ONNX Runtime has no kernel for 8 bits and float32.
    assert all(item["bits"] == 4 for item in products if activations == "float32")
    assert products or budget == "kl=1e-9"
    assert validate(made, runtimes=["ort"]).passed


def test_8_bits_that_are_widened_mean_what_their_blocks_do(tmp_path: Path) -> None:
    """Rows of one block and a part of one, as a column and as a row, in a product and in a table."""
    path = tmp_path / "lm.onnx"
    language_model(path)
    model = onnx.load(path)
    weights, _ = find_weights(model)
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    codes = {
        weight.name: nearest(weight.matrix(arrays[weight.name]), "int8", block_of("int8", weight, "ort"))
        for weight in weights
    }
    onnx.save(rewritten(model, weights, codes, [], "ort"), tmp_path / "made.onnx")
    for tensor in model.graph.initializer:
        weight = next((item for item in weights if item.name == tensor.name), None)
        if weight is not None:
            array = weight.stored(codes[weight.name].matrix())
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tmp_path / "plain.onnx")
    assert {weight.depth % codes[weight.name].block for weight in weights} != {0}
    np.testing.assert_array_equal(
        _logits(tmp_path / "made.onnx", _tokens(1)), _logits(tmp_path / "plain.onnx", _tokens(1))
    )


@pytest.mark.parametrize(
    ("dialect", "budget", "packed"), [("ort", "error=0.2", 2), ("ort", "error=0.02", 1), ("qdq", "error=0.2", 0)]
)
def test_experts_are_packed_where_their_operators_take_it(
    tmp_path: Path, dialect: Dialect, budget: str, packed: int
) -> None:
    """4 bits where the budget is wide, 8 where it is narrow; QDQ, which has no such operators, widens 8 bits."""
    path, made = experts(tmp_path / "experts.onnx"), tmp_path / "made.onnx"
    x = np.random.default_rng(5).standard_normal((64, 6, 32)).astype(np.float32)
    plan = quantize(path, made, budget, dialect=dialect, calibration={"x": x}).plan
    model = onnx.load(made)
    found = [node for node in model.graph.node if node.domain == "hsm"]
    assert {node.op_type.startswith("Quantized") for node in found} == {packed > 0}
    assert {_attributes(node).get("per_byte", 0) for node in found} == {packed}
    assert {body.name for body in model.functions} == {node.op_type for node in found}
    assert plan.held_out.error <= plan.budget.limit
    assert made.stat().st_size < path.stat().st_size / 2
    assert validate(made, runtimes=["ort", "ort-fused"]).passed
    assert inspect(made).parameters == inspect(path).parameters  # type: ignore[attr-defined]


def _attributes(node: onnx.NodeProto) -> dict[str, int]:
    return {item.name: item.i for item in node.attribute}


def test_validate_judges_the_kernels_and_the_budget_apart(tmp_path: Path) -> None:
    path, made = language_model(tmp_path / "lm.onnx"), tmp_path / "made.onnx"
    quantize(path, made, "kl=1e-2")
    result = validate(made, runtimes=["ort"])
    assert result.passed and result.quantisation is None
    assert "whether it keeps kl=0.01 is not judged" in result.warnings[0]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("kl", "no budget"),
        ("kl=0", "allows nothing"),
        ("top1=1", "allows nothing"),
        ("kl=..", "no budget"),
        ("x=1", "no"),
    ],
)
def test_what_is_no_budget_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        Budget.parse(text)


def test_budgets_are_read_as_they_are_written() -> None:
    assert Budget.parse("perplexity=+0.5%") == Budget("perplexity", 0.005)
    assert Budget.parse("top1=99%").harm == pytest.approx(0.01)
    for text in ("kl=0.001", "top1=0.98", "perplexity=+0.005", "error=0.02"):
        assert Budget.parse(text).text == text


def test_what_cannot_be_quantised_is_refused(lm: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.onnx"
    with pytest.raises(UsageError, match="there is no budget"):
        quantize(lm, made)
    with pytest.raises(UsageError, match="random tokens have no perplexity"):
        quantize(lm, made, "perplexity=1%")
    with pytest.raises(UsageError, match="is no language model"):
        quantize(classifier(tmp_path / "c.onnx"), made, "perplexity=1%")
    with pytest.raises(BadInputError, match="the inputs of"):
        quantize(lm, made, "kl=1", calibration={"words": _tokens(1)})
    with pytest.raises(BadInputError, match="no choice of forms keeps"):
        quantize(lm, made, "top1=0.99999")
    assert not made.exists()
    quantize(lm, made, "kl=1e-2")
    with pytest.raises(BadInputError, match="quantised already"):
        quantize(made, tmp_path / "again.onnx", "kl=1e-2")


def test_text_is_split_between_the_search_and_the_proof(tmp_path: Path) -> None:
    path, text = language_model(tmp_path / "lm.onnx"), tmp_path / "text.txt"
    text.write_text("abc " * 400, encoding="utf-8")
    with pytest.raises(UsageError, match="token ids"):
        quantize(path, tmp_path / "made.onnx", "kl=1e-2", calibration=text)


def test_the_command_writes_file_and_plan(lm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(lm.with_name("tokens.npz"), tokens=_tokens(7))
    made, plan = lm.with_name("made.onnx"), lm.with_name("plan.json")
    arguments = ["quantize", str(lm), "-o", str(made), "--budget", "perplexity=+1%", "--save-plan", str(plan)]
    assert run([*arguments, "--calibration", str(lm.with_name("tokens.npz"))]) == 0
    shown = capsys.readouterr().out
    assert "held-out inputs" in shown and "times smaller" in shown
    assert json.loads(plan.read_text(encoding="utf-8"))["schema"] == "hsm-export quantisation plan"
    assert run(["quantize", str(lm), "-o", str(made), "--budget", "nothing"]) == 2
