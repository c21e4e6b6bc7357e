"""The plugins in TensorRT-RTX's real parser and builder, which need no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tests.exporter.building.test_operators import one_node_model
from tests.plugins.tensorrt.library import PLUGINS, REGISTER, converse, plugin_library

import hsm_operators
from hsm_export.building.network import strip_bodies
from hsm_operators import OPERATORS

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

ARCHITECTURES = ["SM80", "SM86", "SM89", "SM120"]
SIZES = {"batch": (1, 2, 4), "length": (1, 16, 300)}
TYPES = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.BFLOAT16: "BF16"}
PRECISIONS = ("fp32", "fp16", "bf16")


def profile_of(model: onnx.ModelProto) -> dict[str, list[list[int]]]:
    """Return the smallest, expected and largest shape of every input."""
    return {
        value.name: [
            [
                SIZES[dim.dim_param][which] if dim.dim_param else dim.dim_value
                for dim in value.type.tensor_type.shape.dim
            ]
            for which in range(3)
        ]
        for value in model.graph.input
    }


def without_bodies(path: Path) -> onnx.ModelProto:
    """Take the bodies out of a model file, so that the plugins are the only way to build it."""
    model = strip_bodies(onnx.load(path), OPERATORS)
    onnx.save(model, path)
    return model


# ---------------------------------------------------------------- every operator in every type


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the parser and the builder made of every operator in every type."""
    directory = tmp_path_factory.mktemp("operators")
    library = plugin_library()
    cases = {}
    for name in PLUGINS:
        for precision in PRECISIONS:
            path = one_node_model(directory / f"{name}-{precision}.onnx", name, precision)
            model = without_bodies(path)
            cases[f"{name}-{precision}"] = {
                "model": str(path),
                "profile": profile_of(model),
                "architectures": ARCHITECTURES,
            }
    job = {"library": str(library), "register": False, "cases": cases}
    result: dict[str, Any] = converse("parse_and_build.py", job, directory)
    result["models"] = {name: onnx.load(case["model"]) for name, case in cases.items()}
    return result


def test_every_plugin_has_a_creator(built: dict[str, Any]) -> None:
    ours = sorted(name for name in built["creators"] if name.startswith("hsm::"))
    assert ours == sorted(
        f"{hsm_operators.PLUGIN_NAMESPACE}::{name}@{hsm_operators.PLUGIN_VERSION}" for name in PLUGINS
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PLUGINS)
def test_an_operator_becomes_a_plugin_and_an_engine(built: dict[str, Any], name: str, precision: str) -> None:
    result = built["cases"][f"{name}-{precision}"]
    assert result["refusal"] is None
    assert result["plugins"] == ["layers.0.mixer"]
    assert result["engine_bytes"] > 1000
    expected = {
        value.name: [
            [-1 if dim.dim_param else dim.dim_value for dim in value.type.tensor_type.shape.dim],
            TYPES[value.type.tensor_type.elem_type],
        ]
        for value in built["models"][f"{name}-{precision}"].graph.output
    }
    assert result["outputs"] == expected


# ---------------------------------------------------------------- other ways in


def test_loading_the_registering_library_is_enough(tmp_path: Path) -> None:
    library = plugin_library().with_name(REGISTER)
    path = one_node_model(tmp_path / "m.onnx", "ShiftMix", "fp16")
    without_bodies(path)
    job = {"library": str(library), "register": True, "cases": {"m": {"model": str(path)}}}
    result = converse("parse_and_build.py", job, tmp_path)
    assert sum(name.startswith("hsm::") for name in result["creators"]) == len(PLUGINS)
    assert result["cases"]["m"]["plugins"] == ["layers.0.mixer"]


def test_a_plugin_is_preferred_to_the_body(tmp_path: Path) -> None:
    path = one_node_model(tmp_path / "m.onnx", "TaylorShift", "fp32")
    job = {"library": str(plugin_library()), "register": False, "cases": {"m": {"model": str(path)}}}
    assert converse("parse_and_build.py", job, tmp_path)["cases"]["m"]["plugins"] == ["layers.0.mixer"]


# ---------------------------------------------------------------- refusals

Input = tuple[str, int, tuple[int | str, ...]]
X: Input = ("x", TensorProto.FLOAT, ("batch", "length", 12))


def node_model(path: Path, operator: str, inputs: list[Input], **attributes: Any) -> Path:
    """Write one node with whatever inputs and attributes."""
    node = helper.make_node(
        operator,
        [name for name, _, _ in inputs],
        ["y"],
        "layers.0.mixer",
        domain=hsm_operators.DOMAIN,
        plugin_namespace=hsm_operators.PLUGIN_NAMESPACE,
        plugin_version=hsm_operators.PLUGIN_VERSION,
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        operator,
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(hsm_operators.DOMAIN, hsm_operators.VERSION)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def expert_inputs(experts: int = 4) -> list[Input]:
    return [
        X,
        ("logits", TensorProto.FLOAT, ("batch", "length", 2, experts)),
        ("weight", TensorProto.FLOAT, (2, experts, 12, 8)),
    ]


def channels(name: str, size: int, dtype: int = TensorProto.FLOAT) -> Input:
    return (name, dtype, (size,))


# For each refusal the node, and what the log must say.
REFUSALS: dict[str, tuple[str, list[Input], dict[str, Any], str]] = {
    "int input": (
        "TokenShift",
        [("x", TensorProto.INT32, ("batch", "length", 12))],
        {"shifts": [1]},
        "TokenShift: input x must be float32, float16 or bfloat16, got int32",
    ),
    "mixed types": (
        "ShiftMix",
        [X, channels("alpha", 12, TensorProto.FLOAT16), channels("beta", 12)],
        {"shifts": [1]},
        "ShiftMix: input alpha must be float32 like input x, got float16",
    ),
    "wrong rank": (
        "TokenShift",
        [("x", TensorProto.FLOAT, ("batch", 12))],
        {"shifts": [1]},
        "TokenShift: input x must have 3 dimensions (B,T,D), got 2",
    ),
    "sizes that differ": (
        "ShiftMix",
        [X, channels("alpha", 12), channels("beta", 13)],
        {"shifts": [1]},
        "ShiftMix: input beta has size 13 in dimension D of (D), but another input has 12",
    ),
    "uneven groups": (
        "TokenShift",
        [X],
        {"shifts": [1, 2, 3, 4, 5]},
        "TokenShift: width D = 12 does not split into 5 equal groups, one per shift",
    ),
    "k beyond the experts": (
        "ExpertMatMul",
        expert_inputs(),
        {"k": 5},
        "ExpertMatMul: k = 5 exceeds the number of experts E = 4",
    ),
    "k of zero": ("ExpertMatMul", expert_inputs(), {"k": 0}, "ExpertMatMul: attribute k must be at least 1, got 0"),
    "no k": ("ExpertMatMul", expert_inputs(), {}, "ExpertMatMul: attribute k is missing"),
    "a missing input": ("ShiftMix", [X], {"shifts": [1]}, "ShiftMix takes 3 inputs, got 1"),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the parser says to every node of REFUSALS, one after the other in one process."""
    directory = tmp_path_factory.mktemp("refusals")
    library = plugin_library()
    cases = {
        name: {"model": str(node_model(directory / f"{name}.onnx", operator, inputs, **attributes))}
        for name, (operator, inputs, attributes, _) in REFUSALS.items()
    }
    # After all of them the process must still be of use.
    path = one_node_model(directory / "good.onnx", "ExpertMatMul", "fp32")
    cases["good"] = {"model": str(path)}
    job = {"library": str(library), "register": False, "cases": cases}
    result: dict[str, Any] = converse("parse_and_build.py", job, directory)
    return result


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_an_error_of_the_parser_that_tells_our_reason(refused: dict[str, Any], name: str) -> None:
    result = refused["cases"][name]
    operator, _, _, sentence = REFUSALS[name]
    assert result["log"] == f"layers.0.mixer: {sentence}"
    assert f"node layers.0.mixer, operator {operator}: {sentence}" in result["refusal"]


def test_the_process_survives_all_refusals(refused: dict[str, Any]) -> None:
    assert refused["cases"]["good"]["plugins"] == ["layers.0.mixer"]
