"""ONNX files: what is counted, against numbers worked out by hand."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tests.exporter.inspection.hand_made import save, weights

from hsm_export.errors import BadInputError
from hsm_export.inspection import OnnxResult, inspect
from hsm_operators import make_node


def inspect_onnx(path: Path) -> OnnxResult:
    """Inspect and narrow the type."""
    result = inspect(path)
    assert isinstance(result, OnnxResult)
    return result


def test_a_linear_layer_by_hand(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="linear.MatMul"),
        helper.make_node("Add", ["y", "b"], ["z"], name="linear.Add"),
        helper.make_node("Softmax", ["z"], ["p"], name="Softmax"),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": ("batch", "length", 8)}, ["p"], [weights("w", 8, 5), weights("b", 5)])
    result = inspect_onnx(path)
    assert result.parameters == 45 and result.weight_bytes == {"float": 180} and result.precision == "fp32"
    assert result.operators == {"MatMul": 1, "Add": 1, "Softmax": 1} and result.uncounted == {}
    assert [cost.length for cost in result.costs] == [1, 128, 1024, 4096]
    for cost in result.costs:
        length = cost.length
        assert length is not None
        assert cost.flops == length * (2 * 8 * 5 + 5 + 5 * 5)
        product, addition, softmax = 4 * (8 * length + 40 + 5 * length), 4 * (10 * length + 5), 4 * 10 * length
        assert cost.bytes == product + addition + softmax
        assert cost.flops_per_token == cost.flops / length


def taylor_flops(length: int, d: int, direct_allowed: bool) -> int:
    """Operations of one head, written out from the formulas of the paper (packed features)."""
    direct = 2 * length * length * d + 3 * length * length + length * length + 2 * length * length * d
    features = 1 + d + d * (d + 1) // 2
    efficient = 2 * length * features * (d + 1) * 2 + 2 * length * d * (d + 1) // 2
    return 8 * length * d + (min(direct, efficient) if direct_allowed else efficient)


@pytest.mark.parametrize("causal", [False, True])
def test_taylor_shift_takes_the_cheaper_form(causal: bool, tmp_path: Path) -> None:
    inputs: dict[str, tuple[Any, ...]] = dict.fromkeys("qkv", ("batch", "length", 3, 16))
    if causal:
        inputs |= {"state": ("batch", 3, 153, 16), "norm": ("batch", 3, 153), "lengths": ("batch",)}
        node = make_node(
            "CausalTaylorShift",
            ["q", "k", "v", "t", "state", "norm", "lengths"],
            ["y", "state_out", "norm_out"],
            "layers.1.mixer",
            normalize=1,
        )
    else:
        node = make_node("TaylorShift", ["q", "k", "v", "t"], ["y"], "layers.1.mixer", normalize=1, output_norm=0)
    result = inspect_onnx(save(tmp_path / "m.onnx", [node], inputs, ["y"], [weights("t", 3)]))
    for cost in result.costs:
        assert cost.length is not None
        assert cost.flops == 3 * taylor_flops(cost.length, 16, not causal)
    (row,) = result.mixers
    assert row.name == "layers.1.mixer" and row.operators == (node.op_type,)
    assert (row.details["heads"], row.details["head_dim"], row.details["normalize"]) == (3, 16, True)
    assert result.uncounted == {} and row.costs[0].flops == result.costs[0].flops
    assert result.functions[0].name == node.op_type and result.functions[0].nodes > 10
    assert list(result.formulas) == [node.op_type]


def test_shift_mix_moves_two_copies_of_its_input(tmp_path: Path) -> None:
    node = make_node("ShiftMix", ["x", "alpha", "beta"], ["y"], "layers.0.mixer", shifts=[1, 4])
    initializers = [weights("layers.0.mixer.alpha", 8), weights("layers.0.mixer.beta", 8)]
    node.input[1:] = [tensor.name for tensor in initializers]
    result = inspect_onnx(save(tmp_path / "m.onnx", [node], {"x": (1, "length", 8)}, ["y"], initializers))
    assert [cost.flops_per_token for cost in result.costs] == [24] * 4
    assert [cost.bytes for cost in result.costs] == [4 * (2 * 8 * n + 16) for n in (1, 128, 1024, 4096)]
    (row,) = result.mixers
    assert row.details == {"shifts": [1, 4], "width": 8} and row.parameters == 16


def test_half_precision_halves_the_bytes(tmp_path: Path) -> None:
    node = make_node("TokenShift", ["x"], ["y"], "shift", shifts=[2])
    path = save(tmp_path / "m.onnx", [node], {"x": (1, "length", 8)}, ["y"], element_type=TensorProto.FLOAT16)
    result = inspect_onnx(path)
    assert result.costs[1].bytes == 2 * 2 * 8 * 128 and result.costs[1].flops == 0
    assert result.mixers[0].name == "shift"


@pytest.mark.parametrize("active", [1, 3])
def test_experts_cost_by_the_active_ones(active: int, tmp_path: Path) -> None:
    nodes = [
        make_node("ExpertMatMul", ["x", "logits", "w"], ["y"], "layers.0.mixer.value", k=active),
        make_node("ExpertMatMulSum", ["y", "logits", "o"], ["z"], "layers.0.mixer.output", k=active),
    ]
    inputs = {"x": (1, "length", 8), "logits": (1, "length", 2, 5)}
    result = inspect_onnx(
        save(tmp_path / "m.onnx", nodes, inputs, ["z"], [weights("w", 2, 5, 8, 6), weights("o", 2, 5, 6, 8)])
    )
    assert {cost.flops_per_token for cost in result.costs} == {2 * 2 * active * 2 * 8 * 6}
    activations = 4 * (8 + 10 + 12) + 4 * (12 + 10 + 8)
    assert result.costs[0].bytes == activations + 2 * 4 * active * 2 * 8 * 6
    assert result.costs[1].bytes == 128 * activations + 2 * 4 * 5 * 2 * 8 * 6
    (row,) = result.mixers
    assert row.name == "layers.0.mixer" and row.operators == ("ExpertMatMul", "ExpertMatMulSum")
    assert row.details == {"heads": 2, "experts": 5, "active": active, "width": 8, "head_dim": 6}


def test_rows_taken_from_a_table_are_not_the_table(tmp_path: Path) -> None:
    node = helper.make_node("Gather", ["table", "lengths"], ["y"])
    path = save(tmp_path / "m.onnx", [node], {"lengths": ("batch", "length")}, ["y"], [weights("table", 1000, 16)])
    result = inspect_onnx(path)
    assert result.costs[0].bytes == 2 * 4 * 16 + 8 and result.parameters == 16000


def test_what_depends_on_weights_only_is_free(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["y"]),
    ]
    result = inspect_onnx(save(tmp_path / "m.onnx", nodes, {"x": (1, "length", 8)}, ["y"], [weights("w", 4, 8)]))
    assert result.costs[0].bytes == 4 * (8 + 32 + 4)


def test_a_file_of_fixed_sizes_has_one_cost(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], kernel_shape=[2, 2])]
    path = save(tmp_path / "m.onnx", nodes, {"x": ("batch", 3, 8, 8)}, ["y"], [weights("w", 6, 3, 2, 2)])
    (cost,) = inspect_onnx(path).costs
    assert cost.length is None and cost.flops == 2 * 3 * 4 * 6 * 16 == cost.flops_per_token


def test_lengths_end_at_the_models_limit(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    metadata = {"config": '{"max_length": 100}'}
    path = save(tmp_path / "m.onnx", [node], {"x": ("batch", "length")}, ["y"], metadata=metadata)
    assert [cost.length for cost in inspect_onnx(path).costs] == [1, 100]


def test_unknown_operators_are_named_as_not_counted(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["y"], domain="other"),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    result = inspect_onnx(save(tmp_path / "m.onnx", nodes, {"x": (1, "length", 8)}, ["z"]))
    assert result.uncounted == {"other::Mystery": 1, "Relu": 1}
    assert result.operators == {"other::Mystery": 1, "Relu": 1}


def test_operators_inside_branches_are_listed(tmp_path: Path) -> None:
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "b", [], [onnx.ValueInfoProto(name="r")])
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    result = inspect_onnx(save(tmp_path / "m.onnx", nodes, {"x": (1, "length", 8)}, ["y"]))
    assert result.operators["Relu"] == 2 and result.uncounted == {"If": 1}


def test_expressions_of_dimensions_are_evaluated(tmp_path: Path) -> None:
    node = helper.make_node("Mystery", ["x"], ["y"], domain="other")
    path = save(tmp_path / "m.onnx", [node, helper.make_node("Relu", ["y"], ["z"])], {"x": (1, "length")}, ["z"])
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, "2*length + 1")))
    onnx.save(model, path)
    assert [cost.flops for cost in inspect_onnx(path).costs] == [3, 257, 2049, 8193]


@pytest.mark.parametrize(
    "expression", ["__import__('os')", "length.real", "9**9**9", "(" * 500 + "length", "1//0", "-length", "a\x00b", ""]
)
def test_hostile_expressions_are_not_evaluated(expression: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["y"], domain="other"), helper.make_node("Relu", ["y"], ["z"])]
    path = save(tmp_path / "m.onnx", nodes, {"x": (1, "length")}, ["z"])
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, expression)))
    onnx.save(model, path)
    assert "Relu" in inspect_onnx(path).uncounted


def test_functions_that_call_each_other_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("A", ["x"], ["y"], domain="d")
    path = save(tmp_path / "m.onnx", [node], {"x": (1, "length")}, ["y"])
    model = onnx.load(path)
    opsets = [helper.make_opsetid("d", 1)]
    for name, callee in (("A", "B"), ("B", "A")):
        body = [helper.make_node(callee, ["u"], ["v"], domain="d")]
        model.functions.append(helper.make_function("d", name, ["u"], ["v"], body, opsets))
    model.opset_import.append(opsets[0])
    onnx.save(model, path)
    with pytest.raises(BadInputError, match="in a circle: d::A, d::B"):
        inspect(path)


def test_external_data_is_counted_and_missing_data_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(tmp_path / "m.onnx", [node], {"x": (1, "length", 64)}, ["y"], [weights("w", 64, 64)])
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    result = inspect_onnx(path)
    assert result.external_data == ("m.onnx.data",) and result.parameters == 4096
    assert result.bytes == path.stat().st_size + (tmp_path / "m.onnx.data").stat().st_size
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(BadInputError, match="is missing"):
        inspect(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x0a", b"PK\x03\x04" + bytes(30), bytes(200), b"\xff" * 64])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BadInputError):
        inspect(tmp_path / "m.onnx")


def test_damaged_files_never_crash(tmp_path: Path) -> None:
    node = make_node("TaylorShift", ["q", "k", "v", "t"], ["y"], "mixer", normalize=1, output_norm=0)
    inputs = dict.fromkeys("qkv", ("batch", "length", 3, 16))
    path = save(tmp_path / "m.onnx", [node], inputs, ["y"], [weights("t", 3)])
    whole, seeded = path.read_bytes(), random.Random(7)
    outcomes = set()
    for trial in range(120):
        damaged = bytearray(whole[: seeded.randrange(len(whole))] if trial % 2 else whole)
        for _ in range(seeded.choice([0, 1, 5, 50])):
            if damaged:
                damaged[seeded.randrange(len(damaged))] = seeded.randrange(256)
        path.write_bytes(damaged)
        try:
            inspect(path)
            outcomes.add("read")
        except BadInputError as error:
            assert str(path) in str(error) or "circle" in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
