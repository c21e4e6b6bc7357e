"""States that share one buffer carry the same numbers as states that have two; and which may share is known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx.parser import parse_model
from tests.exporter.decoding.harness import ORT_RUNTIMES, decode_file, open_session, random_tokens

from hsm_export import DecodeSession
from hsm_export.decoding.steppers import OrtStepper
from hsm_export.formats.state_spec import StateSpec, TensorSpec
from hsm_export.native import custom_ops_path
from hsm_export.onnx_model.in_place import updated_in_place

PRECISIONS = ["fp32", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fp16", "bf16"))]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("runtime", ORT_RUNTIMES)
def test_one_buffer_and_two_give_the_same_bits(runtime: str, precision: str, generator: torch.Generator) -> None:
    rng = np.random.default_rng(generator.initial_seed())
    path = decode_file("hybrid", precision)
    kernels = custom_ops_path() if runtime == "ort-fused" else None
    shared = DecodeSession(path, runtime, batch=3, capacity=40)
    apart = shared.fork()
    model = onnx.load(path)
    apart._stepper = OrtStepper(model, path.parent, shared.spec, kernels=kernels, in_place=False)
    assert isinstance(shared._stepper, OrtStepper)
    assert bool(shared._stepper.in_place) == (runtime == "ort-fused")
    assert apart._stepper.in_place == frozenset()
    tokens = random_tokens(rng, shared, 32)
    for lengths in ([7, 0, 3], [1, 1, 1], [0, 1, 1], [1, 9, 2], [1, 1, 0], [0, 0, 0], [12, 1, 5]):
        piece = tokens[:, : max(1, *lengths)]
        ours, theirs = shared.step(piece, lengths), apart.step(piece, lengths)
        for row, length in enumerate(lengths):
            np.testing.assert_array_equal(ours[row, :length], theirs[row, :length])
        for name, array in apart.snapshot().state.items():
            bits = np.uint16 if precision == "bf16" and array.itemsize == 2 else array.dtype
            np.testing.assert_array_equal(shared.snapshot().state[name].view(bits), array.view(bits), err_msg=name)


@pytest.mark.parametrize("runtime", ORT_RUNTIMES)
def test_what_is_updated_in_place(runtime: str) -> None:
    session = open_session("hybrid", runtime)
    assert isinstance(session._stepper, OrtStepper)
    caches = {tensor.past for tensor in session.spec.tensors if tensor.capacity_axis is not None}
    rest = {tensor.past for tensor in session.spec.tensors} - caches
    assert caches and rest
    # Kernels promise it; bodies, which plain ONNX Runtime runs, do not.
    assert session._stepper.in_place == (caches | rest if runtime == "ort-fused" else frozenset())


SPEC = StateSpec(
    (TensorSpec("0.key", "float32", ("batch", 8, 1, 2), capacity_axis=1, rollback="position"),), capacity=8
)


@pytest.mark.parametrize(
    ("body", "safe"),
    [
        ("present.0.key = ScatterND (past.0.key, slot, new)", True),
        ("present.0.key = ScatterND (past.0.key, slot, new) y = Identity (present.0.key)", True),
        # The old rows are read before the write, because the write needs them.
        ("v = Reshape (past.0.key, shape) w = Add (v, new) present.0.key = ScatterND (past.0.key, slot, w)", True),
        ("size = Shape (past.0.key) present.0.key = ScatterND (past.0.key, slot, new)", True),
        # Something else reads the old rows, perhaps after they were overwritten.
        ("y = Relu (past.0.key) present.0.key = ScatterND (past.0.key, slot, new)", False),
        ("view = Reshape (past.0.key, shape) y = Relu (view) present.0.key = ScatterND (past.0.key, slot, new)", False),
        ("present.0.key = ScatterND (new, slot, past.0.key)", False),
        ("wide = Cast <to = 1> (past.0.key) present.0.key = ScatterND (wide, slot, new)", False),
        ("present.0.key = Concat <axis = 1> (past.0.key, new)", False),
        ("y = If (flag) <then_branch = g () => (float a) {a = Relu (past.0.key)},"
         " else_branch = h () => (float b) {b = Relu (new)}> present.0.key = ScatterND (past.0.key, slot, new)", False),
    ],
)  # fmt: skip
def test_a_buffer_is_shared_only_where_nothing_reads_it_too_late(body: str, safe: bool) -> None:
    text = body.replace("past.0.key", "past_0_key").replace("present.0.key", "present_0_key")
    model = parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,8,1,2] past_0_key, int64[N,1,2] slot, float[N,1,1,2] new,'
        f" int64[M] shape, bool flag) => (float[N,8,1,2] present_0_key) {{ {text} }}"
    )
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [_dotted(name) for name in names]
        for attribute in node.attribute:
            for inner in attribute.g.node:
                inner.input[:] = [_dotted(name) for name in inner.input]
    assert (updated_in_place(model.graph, SPEC, fused={"hsm"}) == {"past.0.key"}) is safe


def _dotted(name: str) -> str:
    return name.replace("_0_key", ".0.key")
