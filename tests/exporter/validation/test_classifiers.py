"""Files as converters of scikit-learn write them: labels, maps of probabilities, support vectors, text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hsm_export import validate
from hsm_export.diffing import DiffOptions, diff
from hsm_export.onnx_model.model_file import open_model
from hsm_export.runtimes import get
from hsm_export.runtimes.ml_operators import coupled
from hsm_export.runtimes.rounded_graph import rounded_graph
from hsm_export.validation.results import ValidationResult

pytest.importorskip("onnxruntime")
RNG = np.random.default_rng(0)


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs, name=operator, domain="ai.onnx.ml", **attributes)


def linear(scores: str) -> onnx.NodeProto:
    numbers = RNG.standard_normal(12).astype(np.float32)
    return node(
        "LinearClassifier", ["X"], ["label", scores], classlabels_ints=[0, 1, 2], coefficients=numbers.tolist(),
        intercepts=[0.1, -0.2, 0.3], multi_class=1, post_transform="SOFTMAX",
    )  # fmt: skip


def support_vectors(scores: str, classes: int = 3) -> onnx.NodeProto:
    pairs, vectors = classes * (classes - 1) // 2, 2 * classes
    return node(
        "SVMClassifier", ["X"], ["label", scores], classlabels_ints=list(range(classes)),
        coefficients=RNG.standard_normal((classes - 1) * vectors).tolist(), kernel_params=[0.3, 0.0, 3.0],
        kernel_type="RBF", post_transform="NONE", prob_a=RNG.uniform(-2, -1, pairs).tolist(),
        prob_b=RNG.uniform(-0.5, 0.5, pairs).tolist(), rho=RNG.standard_normal(pairs).tolist(),
        support_vectors=RNG.standard_normal(4 * vectors).tolist(), vectors_per_class=[2] * classes,
    )  # fmt: skip


def written(path: Path, nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto], **weights: Any) -> Path:
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 4])
    label = helper.make_tensor_value_info("label", TensorProto.INT64, [None])
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "classifier", [x], [label, *outputs], constants)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def maps(name: str) -> onnx.ValueInfoProto:
    inner = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    return helper.make_value_info(name, helper.make_sequence_type_proto(inner))


def zipped(path: Path, classifier: onnx.NodeProto) -> Path:
    # The converters normalise the scores, an operator whose shapes ONNX does not infer.
    nodes = [
        classifier,
        node("Normalizer", ["scores"], ["probabilities"], norm="L1"),
        node("ZipMap", ["probabilities"], ["output_probability"], classlabels_int64s=[0, 1, 2]),
    ]
    return written(path, nodes, [maps("output_probability")])


def said(result: ValidationResult, runtime: str) -> tuple[str, str]:
    return next((item.verdict, item.reason or "") for item in result.runtimes if item.runtime == runtime)


@pytest.mark.parametrize("classifier", [linear, support_vectors])
def test_a_classifier_whose_probabilities_are_maps_passes(tmp_path: Path, classifier: Any) -> None:
    path = zipped(tmp_path / "m.onnx", classifier("scores"))
    result = validate(path)
    assert result.passed
    if get("cpp").available() is None:  # nobody asked for it, so that it is left out and fails nothing
        verdict, reason = said(result, "cpp")
        assert verdict == "skipped"
        assert "output_probability is of type sequence(map(int64, float32)), and the C++ runtime takes only" in reason
        with_it = validate(path, runtimes=["ort", "cpp"])
        assert not with_it.passed and "sequence(map(int64, float32))" in said(with_it, "cpp")[1]


def test_engines_are_not_asked_for_maps_and_text_either(tmp_path: Path) -> None:
    file = open_model(zipped(tmp_path / "m.onnx", linear("scores")))
    for name in ("tensorrt", "tensorrt-rtx"):
        reason = "output output_probability is of type sequence(map(int64, float32)); an engine binds only tensors"
        assert str(get(name).refuses(file)).startswith(reason)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 3])
    assert get("tensorrt").refuses(open_model(written(tmp_path / "n.onnx", [linear("scores")], [scores]))) is None


def test_every_layer_of_such_a_classifier_is_compared(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.onnx", support_vectors("scores"))
    result = diff(path, ["ort", "ort:level=0"], options=DiffOptions(layers=True))
    assert result.passed and not result.culprits
    for report in result.runtimes:
        if report.runtime.startswith("ort"):
            assert {layer.operator for layer in report.layers} >= {
                "SVMClassifier",
                "Normalizer",
            }
            assert all(layer.passed for layer in report.layers)
            assert not any("cannot be seen" in note for note in report.notes)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_support_vectors_couple_as_onnx_runtime_does(tmp_path: Path, classes: int) -> None:
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, classes])
    path = written(tmp_path / "m.onnx", [support_vectors("scores", classes)], [scores])
    result = validate(path, runtimes=["ort"], inputs={"X": RNG.standard_normal((50, 4)).astype(np.float32)})
    assert result.passed


def test_coupled_probabilities_agree_with_those_they_come_from() -> None:
    """Where pairs agree with some probabilities, the method finds these, as far as LIBSVM iterates."""
    right = np.array([0.5, 0.3, 0.15, 0.05])
    pairwise = right[:, None] / (right[:, None] + right[None, :])
    np.fill_diagonal(pairwise, 0)
    found = coupled(pairwise)
    assert found.sum() == pytest.approx(1)
    assert np.abs(found - right).max() < 0.02


def test_whole_numbers_on_their_way_through_floats_are_exact(tmp_path: Path) -> None:
    """A label that is cast to a float and back is what it was: rounding moves no whole number."""
    nodes = [
        helper.make_node("ArgMax", ["X"], ["best"], axis=1, keepdims=0),
        node("ArrayFeatureExtractor", ["classes", "best"], ["label0"]),
        helper.make_node("Cast", ["label0"], ["label1"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["label1", "shape"], ["label2"]),
        helper.make_node("Round", ["label2"], ["label3"]),
        helper.make_node("Cast", ["label3"], ["label"], to=TensorProto.INT64),
    ]
    path = written(tmp_path / "m.onnx", nodes, [], classes=np.array([3, 5, 7, 9]), shape=np.array([-1]))
    assert not [item.op_type for item in rounded_graph(onnx.load(path), 1).graph.node if "Random" in item.op_type]
    assert validate(path).passed
    assert diff(path, ["ort"]).passed


def test_numbers_that_a_cast_rounds_are_not(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["X"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["label"], to=TensorProto.INT64),
    ]
    path = written(tmp_path / "m.onnx", nodes, [])
    assert [item.op_type for item in rounded_graph(onnx.load(path), 1).graph.node].count("RandomUniformLike") == 1
