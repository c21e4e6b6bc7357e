"""Runtimes on engines: what is built for which inputs, with a stand-in for the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from polygraphy.backend.base import BaseRunner
from tests.exporter.building.hand_made import token_model
from tests.exporter.building.test_models import MODELS, exported

from hsm_export.building.cuda_driver import Driver
from hsm_export.errors import BadInputError, MissingDependencyError
from hsm_export.formats.profile import Range
from hsm_export.runtimes import engine as engine_module
from hsm_export.runtimes import get, gpu
from hsm_export.runtimes.engine import EngineRunner, name_dimensions
from hsm_export.runtimes.routing import instrument
from hsm_export.runtimes.runtime import RunContext
from hsm_export.runtimes.session import cpu_session

WITH_GPU = Driver("13.0", ("NVIDIA L4 (sm89)",), None)
WITHOUT_GPU = Driver(None, (), "no NVIDIA driver is installed")
GPU_RUNTIMES = ("tensorrt", "tensorrt-rtx", "ort-cuda", "ort-tensorrt")


class Workshop:
    """Makes "engines" that ONNX Runtime runs, and remembers the profiles."""

    def __init__(self) -> None:
        self.profiles: list[list[dict[str, Range]]] = []
        self.active = 0

    def compile(self, path: Path, profiles: list[dict[str, Range]]) -> Path:
        self.profiles.append(profiles)
        return path

    def load(self, path: Path) -> BaseRunner:
        workshop = self
        session = cpu_session(onnx.load(path, load_external_data=False), path.parent)

        class Loaded(BaseRunner):  # type: ignore[misc]
            def activate_impl(self) -> None:
                workshop.active += 1

            def deactivate_impl(self) -> None:
                workshop.active -= 1

            def infer_impl(self, feed_dict: dict[str, Any]) -> dict[str, Any]:
                self.inference_time = 0.25
                values = session.run(None, feed_dict)
                return {item.name: value for item, value in zip(session.get_outputs(), values, strict=True)}

        return Loaded()


def context(path: Path, precision: str = "fp32") -> RunContext:
    model, routed = instrument(onnx.load(path, load_external_data=False))
    return RunContext(model, path.parent, precision, routed=routed)


def test_an_engine_is_built_once_and_again_when_inputs_outgrow_it(tmp_path: Path) -> None:
    workshop = Workshop()
    runner = EngineRunner(
        context(token_model(tmp_path / "m.onnx", external=True)), "tensorrt", workshop.compile, workshop.load
    )
    with runner:
        for batch, length in ((1, 1), (3, 17), (16, 512)):
            assert runner.infer({"tokens": np.zeros((batch, length), np.int64)})["logits"].shape[:2] == (batch, length)
        assert workshop.profiles == [[{"batch": Range(1, 16, 16), "length": Range(1, 512, 512)}]]
        runner.infer({"tokens": np.zeros((1, 513), np.int64)}, check_inputs=False)
        assert workshop.profiles[1:] == [[{"batch": Range(1, 16, 16), "length": Range(1, 513, 513)}]]
        assert workshop.active == 1
        assert runner.last_inference_time() == 0.25
    assert workshop.active == 0


def test_the_first_engine_goes_no_further_than_the_models_positions(tmp_path: Path) -> None:
    workshop = Workshop()
    path = token_model(tmp_path / "m.onnx", max_length=64)
    with EngineRunner(context(path), "tensorrt", workshop.compile, workshop.load) as runner:
        runner.infer({"tokens": np.zeros((1, 2), np.int64)})
    assert workshop.profiles[0][0]["length"] == Range(1, 64, 64)


def test_fixed_shapes_need_no_profile(tmp_path: Path) -> None:
    workshop = Workshop()
    path = token_model(tmp_path / "m.onnx", shape=(2, 8))
    with EngineRunner(context(path), "tensorrt", workshop.compile, workshop.load) as runner:
        runner.infer({"tokens": np.zeros((2, 8), np.int64)})
    assert workshop.profiles == [[]]


@pytest.fixture(scope="module")
def switch_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("switch-head"), MODELS["switch-head-rope"], "fp32")


def test_masks_share_the_names_of_what_they_restrict(switch_head: Path) -> None:
    made = context(switch_head)
    inputs = {value.name: value.type.tensor_type.shape.dim for value in name_dimensions(made).graph.input}
    masks = [inputs[node.mask] for node in made.routed]
    assert masks
    for mask in masks:
        assert [dim.dim_param for dim in mask[:2]] == ["batch", "length"]
        assert all(dim.dim_param.count(".routing_mask.") == 1 for dim in mask[2:])


def test_experts_can_be_free_and_prescribed(switch_head: Path) -> None:
    workshop = Workshop()
    made = context(switch_head)
    tokens = np.arange(10).reshape(2, 5)
    heads, experts = 2, 4
    full = np.zeros((2, 5, heads, experts), bool)
    full[..., :2] = True
    with EngineRunner(made, "tensorrt", workshop.compile, workshop.load) as runner:
        for mask in (full, made.routed[0].free_mask()):
            runner.infer({"tokens": tokens, **{node.mask: mask for node in made.routed}})
        assert len(workshop.profiles) == 1  # prescribed first, as in validation
        assert workshop.profiles[0][0][f"{made.routed[0].mask}.3"] == Range(1, experts, experts)


def test_a_token_in_front_lengthens_what_depends_on_it() -> None:
    sizes = engine_module._consistent({"batch": 4, "length": 512, "length + 1": 18})
    assert sizes == {"batch": 4, "length": 512, "length + 1": 513}


def test_bfloat16_inputs_are_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["batch"])
    result = helper.make_tensor_value_info("y", TensorProto.BFLOAT16, ["batch"])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [value], [result])
    with pytest.raises(BadInputError, match="x is bfloat16"):
        EngineRunner(RunContext(helper.make_model(graph), tmp_path, "bf16"), "tensorrt")


def test_the_real_builder_takes_the_masks(switch_head: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    from hsm_export.building import build

    made = context(switch_head)
    built: list[Path] = []

    def compile_engine(path: Path, profiles: list[dict[str, Range]]) -> Path:
        built.append(build(path, target="tensorrt-rtx", architectures="sm86", profiles=profiles).engine)
        return path

    feed = {node.mask: np.ones((1, 3, 2, 4), bool) for node in made.routed}
    with EngineRunner(made, "tensorrt-rtx", compile_engine, Workshop().load) as runner:
        runner.infer({"tokens": np.zeros((1, 3), np.int64), **feed})
    assert len(built) == 1


@pytest.mark.parametrize("name", GPU_RUNTIMES)
def test_without_a_gpu_the_reason_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "probe", lambda: WITHOUT_GPU)
    reason = str(get(name).available())
    assert "no NVIDIA driver" in reason or "not installed" in reason or "has no" in reason
    assert get(name).by_default


@pytest.mark.parametrize(
    ("target", "present", "driver", "words"),
    [
        ("tensorrt", (), WITH_GPU, "tensorrt' is not installed"),
        ("tensorrt", ("tensorrt",), WITHOUT_GPU, "no NVIDIA driver"),
        ("tensorrt", ("tensorrt",), WITH_GPU, "libhsm_tensorrt"),
        ("tensorrt-rtx", ("tensorrt_rtx",), WITHOUT_GPU, "no NVIDIA driver"),
        ("tensorrt-rtx", ("tensorrt_rtx",), Driver("13.0", ("H100 (sm90)",), None), "sm90"),
        ("tensorrt-rtx", ("tensorrt_rtx", "tensorrt"), WITH_GPU, "either TensorRT or TensorRT-RTX"),
        ("tensorrt-rtx", ("tensorrt_rtx",), WITH_GPU, None),
    ],
)
def test_what_an_engine_runtime_needs(
    target: str, present: tuple[str, ...], driver: Driver, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str, install: str) -> str | None:
        return None if package in present else f"the Python package {package!r} is not installed; {install}"

    def no_library() -> Path:
        raise MissingDependencyError("this installation has no libhsm_tensorrt.so")

    monkeypatch.setattr(engine_module, "missing_package", missing)
    monkeypatch.setattr("hsm_export.native.tensorrt_plugin_path", no_library)
    monkeypatch.setattr(gpu, "probe", lambda: driver)
    reason = get(target).available()
    assert reason is None if words is None else words in str(reason)


def test_validation_reports_them_as_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hsm_export.validation import validate

    monkeypatch.setattr(gpu, "probe", lambda: WITHOUT_GPU)
    result = validate(token_model(tmp_path / "m.onnx", max_length=8))
    skipped = {report.runtime: report.reason for report in result.runtimes if report.verdict == "skipped"}
    assert set(GPU_RUNTIMES) <= set(skipped)
    assert all(skipped[name] for name in GPU_RUNTIMES)
    assert result.passed
