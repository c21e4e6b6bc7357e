"""Language models of the user's own: export, validate, diff, generate, bundle, and the C++ runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.exporter.decoding.harness import needs_library, read_in_pieces
from tests.exporter.decoding.own_models import Linear, LinearAttention, Protocol, protocol
from tests.plugins.test_same_numbers import BACKENDS, LENGTH, ROWS, STEPS, native_numbers, python_decode
from tests.shared import example, example_model, made_once
from torch import Tensor, nn

import hsm_export
from hsm_export import cli
from hsm_export.bundling import bundle, open_bundle, verify_bundle
from hsm_export.decoding.sampling import Sampling
from hsm_export.decoding.session import DecodeSession
from hsm_export.errors import BadInputError, HsmExportError, UsageError
from hsm_export.inspection import OnnxResult, inspect
from hsm_export.runtimes import get
from hsm_models.decoding import StateEntry

OWN = str(Path(__file__).with_name("own_models.py"))
SOURCES = {
    "rwkv": example("rwkv"),
    "mamba": example("mamba"),
    "lfm2": example("lfm2"),
    "linear": f"{OWN}:linear",
    "protocol": f"{OWN}:protocol",
}
PRECISIONS = {"rwkv": "fp32", "mamba": "bf16", "lfm2": "fp32", "linear": "bf16", "protocol": "fp32"}
RUNTIMES = [name for name in ("ort", "ort-fused", "cpp") if get(name).available() is None]


def decode_file(name: str, precision: str | None = None) -> Path:
    precision = precision or PRECISIONS[name]
    return made_once(
        f"own-{name}-{precision}.onnx",
        lambda path: hsm_export.export(SOURCES[name], output=path, precision=precision, decode=True),
    )


def test_what_a_file_says() -> None:
    result = inspect(decode_file("lfm2"))
    assert isinstance(result, OnnxResult) and result.state is not None
    assert result.metadata["task"] == "language_model"
    assert [(row.name, row.shape, row.rollback) for row in result.state.tensors] == [
        ("blocks.0.mixer.conv", ("batch", 2, 32), "snapshot"),
        ("blocks.1.mixer.key", ("batch", 2, "capacity", 8), "position"),
        ("blocks.1.mixer.value", ("batch", 2, "capacity", 8), "position"),
        ("blocks.2.mixer.conv", ("batch", 2, 32), "snapshot"),
    ]
    assert result.state.bytes_per_token == 2 * 2 * 8 * 4
    types = {row.name: (row.dtype, row.shape) for row in inspect(decode_file("linear")).state.tensors}  # type: ignore[union-attr]
    assert types == {
        "attention.sum": ("float32", ("batch", 8, 8)),
        "attention.count": ("int64", ("batch",)),
    }


@pytest.mark.parametrize("name", ["rwkv", "lfm2", "protocol"])
@pytest.mark.parametrize("runtime", ["torch", "ort"])
def test_pieces_give_what_one_pass_gives(name: str, runtime: str) -> None:
    rng = np.random.default_rng(1)
    model = decode_file(name) if runtime == "ort" else SOURCES[name]
    session = DecodeSession(model, runtime, batch=2, capacity=20)
    assert session.vocab_size == 256
    assert session.capacity == {"lfm2": 20, "protocol": 20, "rwkv": None}[name]
    tokens, lengths = rng.integers(0, 256, (2, 20)), np.array([20, 13])
    whole = protocol() if name == "protocol" else example_model(name)
    with torch.inference_mode():
        expected = whole(torch.from_numpy(tokens)).numpy()
    for row, logits in enumerate(read_in_pieces(session, tokens, lengths, rng)):
        np.testing.assert_allclose(logits, expected[row, : len(logits)], atol=2e-5)


@pytest.mark.parametrize("name", SOURCES)
def test_validation(name: str) -> None:
    result = hsm_export.validate(decode_file(name), against=SOURCES[name], runtimes=RUNTIMES, steps=16)
    assert result.passed, result.summary
    assert not result.warnings
    for report in result.runtimes:
        assert report.decoding is not None and set(report.decoding.exact) >= {"rows of length 0", "forks"}


def test_other_weights_and_other_models_are_noticed() -> None:
    torch.manual_seed(5)
    found = hsm_export.validate(decode_file("linear"), against=Linear(), runtimes=["ort"], steps=4)
    assert not found.passed
    with pytest.raises(HsmExportError, match="only one of them has the state"):
        hsm_export.validate(decode_file("linear"), against=SOURCES["rwkv"], runtimes=["ort"], steps=4)


@pytest.mark.parametrize("name", ["mamba", "lfm2"])
def test_layers_are_held_to_the_source(name: str) -> None:
    result = hsm_export.diff(
        decode_file(name), against=SOURCES[name], runtimes=["ort"], options=hsm_export.DiffOptions(layers=True)
    )
    assert result.passed
    assert not result.culprits


def test_sums_of_many_tokens_do_not_stand_still_in_bfloat16() -> None:
    layer = LinearAttention()
    with torch.no_grad():
        layer.qkv.weight.zero_()
        layer.qkv.bias.fill_(1.0)
    path = made_once(
        "own-ones.onnx", lambda path: hsm_export.export(Linear(layer), output=path, precision="bf16", decode=True)
    )
    session = DecodeSession(path, "ort")
    for _ in range(20):
        session.step(np.zeros((1, 30), np.int64))
    state = session.snapshot().state
    # A bfloat16 sum of ones ends at 256.
    assert state["past.attention.sum"].min() == state["past.attention.sum"].max() == 600
    assert state["past.attention.count"].tolist() == [600]


def test_generated_text_and_perplexity(tmp_path: Path) -> None:
    greedy = Sampling(temperature=0)
    texts = {
        hsm_export.generate(model, "And God", max_tokens=12, sampling=greedy, runtime=runtime).completions[0].tokens
        for model, runtime in ((decode_file("rwkv"), "ort"), (SOURCES["rwkv"], None), (example_model("rwkv"), "ort"))
    }
    assert len(texts) == 1
    (tmp_path / "text").write_text("In the beginning")
    results = [hsm_export.perplexity(model, tmp_path / "text") for model in (decode_file("lfm2"), SOURCES["lfm2"])]
    assert results[0].perplexity == pytest.approx(results[1].perplexity, rel=1e-4)


@needs_library
@pytest.mark.parametrize("name", ["rwkv", "mamba", "lfm2", "linear"])
def test_bundles_run_in_c_and_cpp_with_the_same_bits(name: str, tmp_path: Path) -> None:
    made = bundle(None, tmp_path / "own.hsm", decode=decode_file(name), against=SOURCES[name])
    assert (made.task, made.tokenizer) == ("language_model", "bytes")
    assert verify_bundle(made.bundle, self_test="ort").checks
    opened = open_bundle(made.bundle)
    rng = np.random.default_rng(7)
    prompt = rng.integers(0, 16, (ROWS, LENGTH)).astype(np.int64)
    steps = rng.integers(0, 16, (STEPS, ROWS)).astype(np.int64)
    for backend in BACKENDS:
        expected = python_decode(opened, backend, prompt, steps)
        assert np.isfinite(expected).all()
        for language in ("c", "cpp"):
            numbers = native_numbers(language, opened, backend, "decode", [prompt, steps], ROWS, LENGTH, STEPS)
            assert numbers.tobytes() == expected.tobytes(), (language, backend)


def test_a_model_and_its_decoding_fit_into_one_bundle(tmp_path: Path) -> None:
    hsm_export.export(protocol(), output=tmp_path / "model.onnx")  # tokens are the examples
    result = hsm_export.validate(tmp_path / "model.onnx", against=protocol(), runtimes=["ort"])
    assert result.passed, result.summary
    with pytest.raises(UsageError, match="beyond the model's longest sequence, 20 tokens"):
        hsm_export.validate(tmp_path / "model.onnx", against=protocol(), shapes=[(1, 21)])
    made = bundle(tmp_path / "model.onnx", tmp_path / "both.hsm", decode=decode_file("protocol"))
    assert (made.parts, made.task) == (("model", "decode"), "language_model")


def test_the_command_line_takes_a_factory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    assert cli.run(["export", SOURCES["linear"], "--decode", "--last-logits", "-o", str(path)]) == 0
    assert "2 tensors" in capsys.readouterr().out
    command = ["generate", str(path), "--prompt", "ab", "--max-tokens", "3", "--temperature", "0", "--json"]
    assert cli.run(command) == 0
    assert cli.run(["validate", str(path), "--against", SOURCES["linear"], "--runtimes", "ort", "--steps", "4"]) == 0


# What breaks the protocol.


class Broken(Protocol):
    """Wrong in one way."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def state_entries(self, rollback: int = 0) -> Any:
        entries = dict(super().state_entries(rollback))
        return {'a "name"': entries["total"]} if self.fault == "name" else entries

    def forward(self, tokens: Tensor) -> Tensor:
        if self.fault == "logits":
            return self.embedding(tokens).sum(-1)
        if self.fault == "forward":
            raise RuntimeError("no such table")
        length = tokens.shape[1]
        everything = torch.full((len(tokens),), length)
        start = torch.zeros_like(everything)
        return super().forward_cached(tokens, self.initial_state(len(tokens)), start, everything)[0]

    def forward_cached(self, tokens: Tensor, state: Any, position: Tensor, lengths: Tensor) -> Any:  # type: ignore[override]
        if self.fault == "padding":
            lengths = torch.full_like(lengths, tokens.shape[1])
        logits, after = super().forward_cached(tokens, state, position, lengths)
        total = after["total"]
        if self.fault == "raises":
            raise KeyError("conv")
        if self.fault == "forgets":
            return logits, {"total": total * 0}
        if self.fault == "stands still":
            return logits, {"total": total + 1e-12}
        if self.fault == "few logits":
            return logits[:, -1:], after
        if self.fault == "keys":
            return logits, {"sum": total}
        if self.fault == "type":
            return logits, {"total": total.half()}
        return logits, {"total": total[:1]} if self.fault == "rows" else after


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("logits", r"Broken maps token ids \(1, 1\) to a tensor \(1, 1\), not to logits"),
        ("forward", r"Broken does not read token ids \(1, 1\): no such table"),
        ("padding", "forward_cached (differs from forward by|changes the state total of a row that reads nothing)"),
        ("forgets", "forward_cached (differs from forward by|changes the state total)"),
        ("stands still", "changes the state total of a row that reads nothing"),
        ("few logits", r"returns logits \(2, 1, 256\) instead of \(2, 5, 256\)"),
        ("keys", r"returns the state \['sum'\] instead of \['total'\]"),
        ("type", r"returns the state total as float16 \(2, 8\) instead of float(64|32) \(2, 8\)"),
        ("rows", r"returns the state total as float\d\d \(1, 8\) instead of float\d\d \(2, 8\)"),
        ("raises", r"forward_cached fails for tokens \(2, 5\): 'conv'"),
        ("name", "has a state called"),
    ],
)
def test_a_broken_protocol_is_refused_with_a_sentence(fault: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(HsmExportError, match=words) as caught:
        hsm_export.export(Broken(fault), output=tmp_path / "m.onnx", decode=True)
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_what_does_not_decode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Linear does not decode: it has neither"):
        hsm_export.export(nn.Linear(2, 2), output=tmp_path / "m.onnx", decode=True)
    with pytest.raises(UsageError, match="needs example inputs"):
        hsm_export.export(nn.Linear(2, 2), output=tmp_path / "m.onnx")
    with pytest.raises(BadInputError, match="does not read token ids"):
        hsm_export.export(LinearAttention(), output=tmp_path / "m.onnx", decode=True)
    assert StateEntry((2,)).rollback == "snapshot"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "the Python file"),
        ("x = 1", "has no function make"),
        ("make = 3", "has no function make"),
        ("import nowhere", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("def make():\n    raise ValueError('no weights')", r"make\(\) of .* fails: ValueError: no weights"),
        ("def make():\n    return 3", r"make\(\) of .* returns a int, not a torch.nn.Module"),
    ],
)
def test_factories_that_make_nothing(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(HsmExportError, match=words):
        hsm_export.export(f"{path}:make", output=tmp_path / "m.onnx", decode=True)
