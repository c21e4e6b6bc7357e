"""Model repositories: valid in Triton's own schema, true to the files, and a sequence computes what one pass does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from tests.exporter.building.hand_made import token_model
from tests.exporter.bundling.conftest import Exported
from tests.exporter.bundling.engines import pretend_engine
from tests.exporter.bundling.triton_server import read, triton_schema

from hsm_export.bundling.triton import write_repository
from hsm_export.bundling.triton_config import Serving, onnx_config
from hsm_export.errors import BadInputError, UsageError
from hsm_export.onnx_model.model_file import open_model

TYPES = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.INT64: "TYPE_INT64",
}


@pytest.fixture(scope="session")
def schema() -> Any:
    """Triton's protocol buffers of model configurations, from its client's wheel."""
    return triton_schema()


@pytest.fixture(scope="module")
def repository(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language model's repository."""
    path = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(exported.model, path, decode=exported.decode, max_batch=4, libraries="/opt/hsm/lib/")
    return path


def shape_of(tensor: Any) -> list[int]:
    """Return the shape that a backend holds against the model's, without the batch."""
    return list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


@pytest.mark.parametrize("name", ["lm", "lm-decode"])
def test_true_to_the_file(schema: Any, repository: Path, name: str) -> None:
    """Every input is declared once, as an input or a state, and all have the model's type and shape."""
    config = read(schema, repository, name)
    model = onnx.load(repository / name / "1" / config.default_model_filename)
    assert (config.name, config.backend, config.max_batch_size) == (name, "onnxruntime", 4)
    assert list(config.model_operations.op_library_filename) == ["/opt/hsm/lib/libhsm_onnxruntime.so"]
    assert config.version_policy.latest.num_versions == 1
    states = list(config.sequence_batching.state)
    declared = {tensor.name: tensor for tensor in config.input} | {state.input_name: state for state in states}
    assert len(declared) == len(config.input) + len(states) == len(model.graph.input)
    produced = {tensor.name: tensor for tensor in config.output} | {state.output_name: state for state in states}
    assert len(produced) == len(model.graph.output)
    for values, tensors in ((model.graph.input, declared), (model.graph.output, produced)):
        for value in values:
            tensor = tensors[value.name]
            dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
            is_state = not hasattr(tensor, "name")
            assert dims[1:] == (list(tensor.dims) if is_state else shape_of(tensor)), value.name
            assert schema.DataType.Name(tensor.data_type) == TYPES[value.type.tensor_type.elem_type]


def test_scheduling(schema: Any, repository: Path) -> None:
    whole, sequences = read(schema, repository, "lm"), read(schema, repository, "lm-decode")
    assert whole.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert sequences.WhichOneof("scheduling_choice") == "sequence_batching"
    batching = sequences.sequence_batching
    assert batching.WhichOneof("strategy_choice") == "oldest"
    assert batching.max_sequence_idle_microseconds >= 10_000_000
    for state in batching.state:
        (initial,) = state.initial_state
        assert initial.zero_data and initial.name
        assert (list(initial.dims), initial.data_type) == (list(state.dims), state.data_type)
        assert all(size > 0 for size in state.dims), "an initial state needs fixed sizes"


def test_sequence_as_the_server_runs_it(schema: Any, repository: Path, exported: Exported) -> None:
    """States that begin as zeros and go from output to input, as configured, give what one pass gives."""
    import onnxruntime

    config = read(schema, repository, "lm-decode")
    step = onnxruntime.InferenceSession(str(repository / "lm-decode" / "1" / config.default_model_filename))
    whole = onnxruntime.InferenceSession(str(repository / "lm" / "1" / "model.onnx"))
    tokens = np.random.default_rng(3).integers(0, 256, (1, 9))
    states = {
        state.input_name: np.zeros((1, *state.initial_state[0].dims), np.float32)
        for state in config.sequence_batching.state
    }
    names = [tensor.name for tensor in config.output] + [state.output_name for state in config.sequence_batching.state]
    got, position = [], 0
    for count in (4, 1, 3, 1):
        request = {
            "tokens": tokens[:, position : position + count],
            "position": np.array([[position]]).reshape(1),
            "lengths": np.array([[count]]).reshape(1),
        }
        logits, *after = step.run(names, {**request, **states})
        states = {state.input_name: array for state, array in zip(config.sequence_batching.state, after, strict=True)}
        got.append(logits)
        position += count
    expected = whole.run(None, {"tokens": tokens})[0]
    np.testing.assert_allclose(np.concatenate(got, 1), expected, atol=1e-5 * np.abs(expected).max())


def test_engines(schema: Any, exported: Exported, tmp_path: Path) -> None:
    profiles = [{"batch": {"min": 1, "opt": 1, "max": size}} for size in (2, 16)]
    engines = [
        pretend_engine(tmp_path / "ampere.engine", exported.model, profiles=profiles),
        pretend_engine(tmp_path / "blackwell.engine", exported.model, profiles=profiles, gpu="B (sm120)"),
        pretend_engine(tmp_path / "rtx.engine", exported.model, target="tensorrt-rtx", architectures=["sm89"]),
    ]
    result = write_repository(exported.model, tmp_path / "repository", engines=engines)
    config = read(schema, tmp_path / "repository", "lm-tensorrt")
    assert dict(config.cc_model_filenames) == {"8.6": "ampere.plan", "12.0": "blackwell.plan"}
    assert config.backend == "tensorrt"
    assert config.max_batch_size == 2, "no batch may be larger than the smallest profile's"
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert (tmp_path / "repository" / "lm-tensorrt" / "1" / "ampere.plan").read_bytes() == b"engine ampere.engine"
    assert "rtx.engine" in result.left_out[0] and "TensorRT-RTX" in result.left_out[0]
    assert "--backend-config=tensorrt,plugins=LIBRARIES/libhsm_tensorrt.so" in result.command


def test_embedded_plugins(exported: Exported, tmp_path: Path) -> None:
    plugins = {"file": "libhsm_tensorrt.so", "sha256": "0" * 64, "embedded": True, "layers": {}}
    engine = pretend_engine(tmp_path / "a.engine", exported.model, plugins=plugins)
    result = write_repository(exported.model, tmp_path / "repository", engines=[engine])
    assert "plugins=" not in result.command
    assert "--backend-config=tensorrt,version-compatible=true" in result.command


def test_engines_of_one_gpu(exported: Exported, tmp_path: Path) -> None:
    engines = [pretend_engine(tmp_path / f"{name}.engine", exported.model) for name in "ab"]
    with pytest.raises(UsageError, match=r"a\.plan and b\.plan are both for sm86"):
        write_repository(exported.model, tmp_path / "repository", engines=engines)


def test_model_of_standard_operators_needs_no_library(schema: Any, tmp_path: Path) -> None:
    write_repository(token_model(tmp_path / "plain.onnx", external=True), tmp_path / "repository")
    config = read(schema, tmp_path / "repository", "plain")
    assert not config.HasField("model_operations")
    assert (tmp_path / "repository" / "plain" / "1" / "plain.onnx.data").is_file()


def test_fixed_batch(schema: Any, tmp_path: Path) -> None:
    """Without a dynamic batch Triton must not batch."""
    write_repository(token_model(tmp_path / "fixed.onnx", shape=(2, 8)), tmp_path / "repository")
    config = read(schema, tmp_path / "repository", "fixed")
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [2, 8]
    assert config.WhichOneof("scheduling_choice") is None


def test_open_capacity(exported: Exported) -> None:
    source = open_model(exported.decode).facts
    state = source.state()
    tensors = tuple(
        replace(tensor, shape=("batch", "capacity", *tensor.shape[2:])) if tensor.capacity_axis is not None else tensor
        for tensor in state.tensors
    )
    with pytest.raises(UsageError, match="leaves the states' capacity to the host"):
        onnx_config("lm", source, replace(state, tensors=tensors), Serving(), [], "model.onnx")


def test_bfloat16_cannot_be_served_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bf16 arithmetic"):
        write_repository(token_model(tmp_path / "a.onnx", precision="bf16"), tmp_path / "repository")


def test_places(tmp_path: Path) -> None:
    model, repository = token_model(tmp_path / "a.onnx"), tmp_path / "repository"
    write_repository(model, repository)
    with pytest.raises(BadInputError, match="exists already"):
        write_repository(model, repository)
    write_repository(token_model(tmp_path / "b.onnx"), repository, force=True)
    assert sorted(path.name for path in repository.iterdir()) == ["README.md", "b"]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "file").write_text("mine")
    with pytest.raises(BadInputError, match="not a repository of ours"):
        write_repository(model, tmp_path / "own", force=True)
