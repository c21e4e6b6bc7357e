"""Files that are right and odd: each command takes them, or says by one sentence what it cannot take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.exporter.onnx_model.odd_files import ODD_FILES

from hsm_export import build, inspect, validate
from hsm_export.building import engine
from hsm_export.bundling.sources import read_parts
from hsm_export.errors import BadInputError
from hsm_export.onnx_model.model_file import open_model
from hsm_export.validation.cases import default_cases
from hsm_export.validation.given_inputs import given_feed

# What each command says against a file; what is not here is taken.
_FED = {
    "sequence in": "input x is of type sequence(float32); only tensors are fed",
    "optional": "input x is of type optional(float32); only tensors are fed",
    "float8": "input x is of type float8_e4m3fn; arrays of it cannot be exchanged",
    "int4": "input x is of type int4; arrays of it cannot be exchanged",
}
_BUILT = {
    "quantised": "is quantised (int8, QDQ); engines are built from models that are not",
    "text": "input x is of type string; an engine binds only",
    "text out of numbers": "output y is of type string; an engine binds only",
    "sequence out": "output y is of type sequence(float32); an engine binds only",
    **{name: words.replace("only tensors are fed", "an engine binds only") for name, words in _FED.items()},
}
_BUNDLED = {
    "float64": "is in fp64; bundles hold models in fp32, fp16, bf16",
    "text": "x is string; bundles hold",
    "text out of numbers": "y is string; bundles hold",
    "int16": "x is int16; bundles hold",
    "complex numbers": "x is complex64; bundles hold",
    "float8": "x is float8_e4m3fn; bundles hold",
    "int4": "x is int4; bundles hold",
    "sequence in": "x is sequence(float32); bundles hold",
    "sequence out": "y is sequence(float32); bundles hold",
    "optional": "x is optional(float32); bundles hold",
    "no shapes": "x has no shape; bundles hold",
    "nothing found": "x has no shape; bundles hold",
    "no inputs": "has no inputs",
}


@pytest.fixture(params=ODD_FILES)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    path = tmp_path / "odd.onnx"
    onnx.save(ODD_FILES[request.param](), path)
    return request.param, path


def said(call: Callable[[], Any]) -> str:
    """Return what a call refuses a file with, "" where it takes it."""
    try:
        call()
    except BadInputError as error:
        return error.message
    return ""


def test_inspect_describes_it(odd: tuple[str, Path]) -> None:
    result = inspect(odd[1]).to_dict()
    assert result["problem"] == ""
    assert result["quantised"] == ("int8, QDQ" if odd[0] == "quantised" else "")
    known = {"float64": "fp64", "bfloat16": "bf16"}
    assert result["precision"] == known.get(odd[0], "fp32")


def test_comparing_takes_it_or_says_what_it_cannot_feed(odd: tuple[str, Path]) -> None:
    kind, path = odd

    def feed() -> None:
        file = open_model(path)
        for case in default_cases(file)[0]:
            given_feed(file, case.feed, case.name)

    words = said(feed)
    assert (_FED[kind] in words) if kind in _FED else not words


def test_bundles_take_it_or_say_what_they_cannot_hold(odd: tuple[str, Path]) -> None:
    kind, path = odd
    words = said(lambda: read_parts(path, None))
    assert (_BUNDLED[kind] in words) if kind in _BUNDLED else not words
    assert ".hsm-export." not in words


def test_build_says_what_it_cannot_take(odd: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    kind, path = odd
    monkeypatch.setattr(engine, "check_gpu_needs", lambda *_: None)
    monkeypatch.setattr(engine.targets, "check_target", lambda _target: None)
    monkeypatch.setattr(engine, "_execute", lambda *_: None)
    sizes = [dict.fromkeys(open_model(path).facts.dynamic_dimensions, "1")]
    words = said(lambda: build(path, profiles=sizes))
    assert (_BUILT[kind] in words) if kind in _BUILT else not words


# ONNX Runtime computes the first in another way than the file says, and has no kernel for the others.
_NOT_RUN = {"quantised", "text", "complex numbers", "float8", "int4"}


@pytest.mark.parametrize("kind", sorted({*ODD_FILES} - _NOT_RUN))
def test_odd_files_run(kind: str, tmp_path: Path) -> None:
    onnx.save(ODD_FILES[kind](), tmp_path / "odd.onnx")
    result = validate(tmp_path / "odd.onnx", runtimes=["ort", *(["cpp"] if _fits_cpp(kind) else [])])
    assert result.passed, result.summary
    assert {report.verdict for report in result.runtimes} == {"baseline", "passed"}


def _fits_cpp(kind: str) -> bool:
    """Whether the C++ runtime is there and has the types of a file's inputs and outputs."""
    from hsm_export.runtimes import get
    from hsm_export.runtimes.cpp_bundle import refusal

    return get("cpp").available() is None and refusal(ODD_FILES[kind]()) is None
