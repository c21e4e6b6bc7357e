"""Speculative decoding in C, as a program in Python sees the library: the greedy tokens of the target."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from tests.exporter.decoding.harness import open_session
from tests.plugins.runtime import LIBRARY, Runtime
from tests.shared import made_once

import hsm_export
from hsm_export import Generator
from hsm_export.bundling import bundle
from hsm_export.decoding.sampling import GREEDY

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="this installation has no libhsm_runtime.so")
PROMPT = "And God said unto"


class Options(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("capacity", ctypes.c_int64),
        ("draft_tokens", ctypes.c_int64),
        ("sampling", ctypes.c_void_p),
        ("seed", ctypes.c_uint64),
    ]


def decoding_bundle(name: str, folder: Path) -> Path:
    path = made_once(f"zoo-{name}-decode.onnx", lambda path: hsm_export.export(f"zoo:{name}", output=path, decode=True))
    bundle(None, folder / f"{name}.hsm", decode=path)
    return folder / f"{name}.hsm"


@pytest.mark.parametrize(
    ("target", "draft"),
    [("hsm-lm", "taylor-shift-lm"), pytest.param("taylor-shift-lm", "hsm-lm", marks=pytest.mark.slow)],
)
def test_greedy_tokens_are_those_of_the_target(target: str, draft: str, tmp_path: Path) -> None:
    runtime = Runtime()
    sessions = [runtime.session(decoding_bundle(name, tmp_path)) for name in (target, draft)]
    options, speculation = Options(size=ctypes.sizeof(Options), capacity=200, draft_tokens=4), ctypes.c_void_p()
    runtime.call("hsmrt_speculation_create", *sessions, ctypes.byref(options), ctypes.byref(speculation))
    prompt = (ctypes.c_int64 * len(PROMPT))(*PROMPT.encode())
    runtime.call("hsmrt_speculation_prefill", speculation, prompt, ctypes.c_size_t(len(PROMPT)))
    tokens, count, made, rounds = (ctypes.c_int64 * 5)(), ctypes.c_size_t(), [], 0
    while len(made) < 60:
        runtime.call("hsmrt_speculation_next", speculation, tokens, ctypes.c_size_t(5), ctypes.byref(count))
        made += tokens[: count.value]
        rounds += 1
    session = open_session(f"zoo:{target}", "ort", capacity=120)
    right = Generator(session).generate(PROMPT, max_tokens=60, sampling=GREEDY).completions[0].tokens
    assert tuple(made[:60]) == right
    assert rounds < 60  # some proposals were taken
