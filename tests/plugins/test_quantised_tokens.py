"""Quantised decoding in C is that in Python, token by token: a small model, every form of weights, no search.

tests/exporter/bundling/test_quantised_tokens.py (slow) compares whole language models as `quantize` makes them.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.plugins.runtime import LIBRARY, Runtime
from tests.shared import made_once

import hsm_export
from hsm_export import Generator
from hsm_export.bundling import bundle
from hsm_export.decoding.sampling import GREEDY
from hsm_export.decoding.session import DecodeSession
from hsm_export.formats.quantisation_plan import Activations, Form
from hsm_export.onnx_model.model_file import open_model
from hsm_export.quantisation.forms import possible
from hsm_export.quantisation.weights import find_weights
from hsm_models import (
    HSMConfig,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    SoftmaxConfig,
    SwitchHeadConfig,
    TaylorShiftConfig,
)
from hsm_models.checkpoint import build_model, save_checkpoint

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="this installation has no libhsm_runtime.so")
PROMPT = "And God said"
TOKENS = 24
MIXERS = (
    HSMConfig(shifts=(1, 3)),
    SoftmaxConfig(heads=2),
    SwitchHeadConfig(heads=2, head_dim=16, experts=4, active=2),
    TaylorShiftConfig(heads=4, causal=True),
)


def _export(path: Path) -> None:
    torch.manual_seed(8)
    layers = tuple(LayerConfig(mixer, MLPConfig(64)) for mixer in MIXERS)
    source = path.with_suffix(".safetensors")
    save_checkpoint(build_model(ModelConfig("language_model", 32, layers, vocab_size=256)), source)
    hsm_export.export(source, output=path, decode=True, capacity=64)


def quantised(folder: Path, form: Form, activations: Activations) -> Path:
    """Store every weight of the small model in a form, where it may have that."""
    given = made_once("quantised-tokens.onnx", _export)
    weights = find_weights(open_model(given).model)[0]
    forms = [form if form in possible(weight, "ort", "decode") else "int8" for weight in weights]
    chosen = [
        {"name": weight.source, "form": own, "rounding": "nearest"} for weight, own in zip(weights, forms, strict=True)
    ]
    plan = {"schema": "hsm-export quantisation plan", "schema_version": 1, "weights": chosen}
    (folder / "plan.json").write_text(json.dumps({**plan, "dialect": "ort", "activations": activations}))
    tokens = np.random.default_rng(3).integers(0, 256, (8, 16))
    target = folder / "quantised.onnx"
    hsm_export.quantize(given, target, "error=0.9", plan=folder / "plan.json", calibration={"tokens": tokens})
    assert target.stat().st_size < given.stat().st_size
    return target


def tokens_in_c(decode: Path, folder: Path) -> tuple[int, ...]:
    """Read the prompt and generate greedily through the C interface."""
    runtime, generator, token = Runtime(), ctypes.c_void_p(), ctypes.c_int64()
    bundle(None, folder / "quantised.hsm", decode=decode)
    session = runtime.session(folder / "quantised.hsm")
    runtime.call("hsmrt_generator_create", session, ctypes.c_int64(1), ctypes.c_int64(0), ctypes.byref(generator))
    prompt = (ctypes.c_int64 * len(PROMPT))(*PROMPT.encode())
    runtime.call("hsmrt_generator_prefill", generator, prompt, ctypes.c_size_t(len(PROMPT)), None)
    made = []
    for _ in range(TOKENS):
        settings = (ctypes.c_double(0), ctypes.c_int64(0), ctypes.c_double(1), ctypes.c_double(0))
        runtime.call("hsmrt_generator_sample", generator, ctypes.c_int64(0), *settings, ctypes.byref(token))
        made.append(token.value)
        runtime.call("hsmrt_generator_step", generator, ctypes.byref(token), ctypes.c_size_t(1))
    return tuple(made)


@pytest.mark.parametrize(
    ("form", "activations"), [("int8", "float32"), ("int4x32", "float32"), ("int4x32", "int8"), ("fp16", "float32")]
)
def test_tokens_are_those_of_python(form: Form, activations: Activations, tmp_path: Path) -> None:
    decode = quantised(tmp_path, form, activations)
    session = DecodeSession(decode, "ort-fused")
    right = Generator(session).generate(PROMPT, max_tokens=TOKENS, sampling=GREEDY).completions[0].tokens
    assert tokens_in_c(decode, tmp_path) == right
