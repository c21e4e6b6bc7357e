"""What ONNX Runtime joins is read from its own optimised graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from hsm_export.runtimes.fusion import Fusion, fusions
from hsm_export.runtimes.session import SessionSettings

GELU = """
    <ir_version: 10, opset_import: ["": 20]> g (float[n, 8] x) => (float[n, 8] y) {
        [matmul] m = MatMul(x, w)
        [bias] h = Add(m, b)
        [divide] d = Div(h, root)
        [erf] e = Erf(d)
        [one_more] p = Add(e, one)
        [times] t = Mul(h, p)
        [half] y = Mul(t, point5)
    }
"""


def gelu() -> onnx.ModelProto:
    """A product with a bias and a Gelu spelled out, every node named."""
    model = onnx.parser.parse_model(GELU)
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 8)), "b": rng.standard_normal(8), "root": 2**0.5, "one": 1, "point5": 0.5}
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return model


def covering(found: tuple[Fusion, ...], node: str) -> Fusion:
    (fusion,) = (item for item in found if node in item.nodes)
    return fusion


def test_a_gelu_is_one_node_with_what_it_replaced(tmp_path: Path) -> None:
    found = fusions(gelu(), tmp_path)
    fusion = covering(found, "erf")
    assert "Gelu" in fusion.operator
    assert {"divide", "erf", "one_more", "times", "half"} <= set(fusion.nodes)
    assert list(fusion.nodes) == [node.name for node in gelu().graph.node if node.name in fusion.nodes]
    assert fusion.text.startswith(f"{fusion.operator} for ") and "Erf" in fusion.text
    assert not list(tmp_path.iterdir())


def test_nothing_is_joined_without_optimisation(tmp_path: Path) -> None:
    assert fusions(gelu(), tmp_path, settings=SessionSettings(level="0")) == ()


def test_an_optimiser_that_is_left_out_joins_nothing(tmp_path: Path) -> None:
    found = fusions(gelu(), tmp_path, settings=SessionSettings(disabled=("GeluFusionL1", "GeluFusionL2")))
    assert not [item for item in found if "Gelu" in item.operator]
