"""Calls through ctypes in wrong order and with wrong numbers: each is refused by one sentence, and life goes on."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
from tests.exporter.decoding.harness import decode_file
from tests.plugins.runtime import LIBRARY, Runtime

from hsm_export.bundling import bundle

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="this installation has no libhsm_runtime.so")
INVALID = 1


class GeneratorOptions(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t if name == "size" else ctypes.c_int64) for name in ("size", "batch", "capacity")]


def whole(*numbers: int) -> list[Any]:
    return [ctypes.c_int64(number) for number in numbers]


def refused(runtime: Runtime, name: str, *arguments: object, code: int = INVALID) -> str:
    """Call a function that must refuse; return its sentence."""
    error = ctypes.create_string_buffer(1024)
    assert getattr(runtime.library, name)(*arguments, error) == code
    sentence = error.value.decode()
    assert sentence.isprintable()
    return sentence


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runtime, ctypes.c_void_p]:
    folder = tmp_path_factory.mktemp("wrong-calls")
    bundle(None, folder / "lm.hsm", decode=decode_file("softmax", capacity=16))
    runtime = Runtime()
    return runtime, runtime.session(folder / "lm.hsm")


def generator_of(runtime: Runtime, session: ctypes.c_void_p, rows: int = 2) -> ctypes.c_void_p:
    generator = ctypes.c_void_p()
    runtime.call("hsmrt_generator_create", session, *whole(rows, 0), ctypes.byref(generator))
    return generator


def test_order(session: tuple[Runtime, ctypes.c_void_p], tmp_path: Path) -> None:
    runtime, opened = session
    generator, token = generator_of(runtime, opened), ctypes.c_int64()
    sample = (generator, *whole(0), ctypes.c_double(0), *whole(0), ctypes.c_double(1), ctypes.c_double(0))
    assert "no logits" in refused(runtime, "hsmrt_generator_sample", *sample, ctypes.byref(token))
    assert "cannot take 1 tokens back" in refused(runtime, "hsmrt_generator_rollback", generator, *whole(0, 1))
    prompt = (ctypes.c_int64 * 3)(1, 2, 3)
    runtime.call("hsmrt_generator_prefill_row", generator, *whole(0), prompt, ctypes.c_size_t(3))
    runtime.call("hsmrt_generator_sample", *sample, ctypes.byref(token))
    path = str(tmp_path / "row.safetensors").encode()
    runtime.call("hsmrt_generator_save_row", generator, *whole(0), path)
    assert "holds 1 rows, not 2" in refused(runtime, "hsmrt_generator_load", generator, path)
    other = generator_of(runtime, opened, 1)
    runtime.call("hsmrt_generator_fork_from", other, generator, *whole(0, 0))
    runtime.library.hsmrt_generator_close(generator)  # what was copied from it stays
    again = (other, *sample[1:])
    copied = ctypes.c_int64()
    runtime.call("hsmrt_generator_sample", *again, ctypes.byref(copied))
    assert copied.value == token.value
    runtime.call("hsmrt_generator_rollback", other, *whole(0, 3))
    assert "no logits" in refused(runtime, "hsmrt_generator_sample", *again, ctypes.byref(token))


def test_numbers(session: tuple[Runtime, ctypes.c_void_p]) -> None:
    runtime, opened = session
    generator = generator_of(runtime, opened, 1)
    long = (ctypes.c_int64 * 17)(*([1] * 17))
    for row, count, words in (
        (0, 17, "holds 16"),
        (0, 0, "at least one token"),
        (1, 1, "no row 1"),
        (-1, 1, "no row -1"),
    ):
        arguments = (generator, *whole(row), long, ctypes.c_size_t(count))
        assert words in refused(runtime, "hsmrt_generator_prefill_row", *arguments)
    for token in (-2, 256, 2**63 - 1, -(2**63)):
        bad = (ctypes.c_int64 * 1)(token)
        assert "token id" in refused(runtime, "hsmrt_generator_step", generator, bad, ctypes.c_size_t(1))
    for batch, capacity in ((0, 0), (-1, 0), (2**31, 0), (1, -1), (1, 2**62), (2**63 - 1, 16)):
        made = ctypes.c_void_p()
        refused(runtime, "hsmrt_generator_create", opened, *whole(batch, capacity), ctypes.byref(made))
        assert made.value is None
    for size in (0, 7, 5000, 2**64 - 1):
        options = GeneratorOptions(size, 1, 0)
        words = refused(runtime, "hsmrt_generator_create_with", opened, ctypes.byref(options), ctypes.byref(generator))
        assert "the size in the generator's options" in words


@pytest.mark.parametrize("threads", ["-1", "1000000", "2147483648", "two", ""])
def test_threads(session: tuple[Runtime, ctypes.c_void_p], threads: str, tmp_path: Path) -> None:
    runtime, _ = session
    runtime.library.hsmrt_options_create.restype = ctypes.c_void_p
    options = ctypes.c_void_p(runtime.library.hsmrt_options_create())
    if threads != "1000000":
        refused(runtime, "hsmrt_options_set", options, b"threads", threads.encode())
        return
    runtime.call("hsmrt_options_set", options, b"threads", threads.encode())
    opened, made = ctypes.c_void_p(), ctypes.c_void_p()
    bundle(None, tmp_path / "lm.hsm", decode=decode_file("softmax", capacity=16))
    runtime.call("hsmrt_bundle_open", str(tmp_path / "lm.hsm").encode(), 1, ctypes.byref(opened))
    words = refused(runtime, "hsmrt_session_open", opened, 1, options, ctypes.byref(made))
    assert "more than this machine could use" in words
