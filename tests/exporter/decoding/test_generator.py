"""Generated text is what the model says: token by token, alone or in a batch, in every runtime."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.exporter.decoding.harness import (
    RUNTIMES,
    Array,
    checkpoint,
    decode_file,
    needs_library,
    open_session,
)

import onnxruntime
from hsm_export import DecodeSession, Generator, generate
from hsm_export.decoding.generator import Piece
from hsm_export.decoding.sampling import GREEDY, Sampling
from hsm_export.decoding.tokenizer import BytesTokenizer
from hsm_export.errors import UsageError
from hsm_models import load_checkpoint

LANGUAGE_MODELS = [
    "zoo:hsm-lm",
    *(
        pytest.param(f"zoo:{name}", marks=pytest.mark.slow)
        for name in ("hsm-hybrid-lm", "switch-head-lm", "taylor-shift-lm", "baseline-softmax")
    ),
]
PROMPTS = ["And God said", "In", "For the LORD thy God is a consuming fire, even a jealous", "Behold, "]
WARM = Sampling(temperature=0.8, top_k=40)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_greedy_tokens_are_those_of_the_full_pass(name: str, runtime: str) -> None:
    session = open_session(name, runtime, capacity=400)
    model = load_checkpoint(checkpoint(name))
    tokenizer = BytesTokenizer()
    exempt = total = 0
    for prompt in PROMPTS:
        completion = Generator(session).generate(prompt, max_tokens=120, sampling=GREEDY).completions[0]
        ids = [*tokenizer.encode(prompt), *completion.tokens]
        native, exact = full_pass(model, ids), full_pass(model, ids, torch.float64)
        session.reset(1)
        error = np.abs(session.step([ids])[0] - exact).max() + np.abs(native - exact).max()
        start = completion.prompt_tokens - 1
        margins = np.diff(np.sort(exact[start:-1], axis=1)[:, -2:], axis=1)[:, 0]
        differs = native[start:-1].argmax(axis=1) != np.array(completion.tokens)
        assert not (differs & (margins > error)).any()
        exempt += int((margins <= error).sum())
        total += len(completion.tokens)
    print(f"{name}, {runtime}: {exempt} of {total} tokens are too close to call")
    assert exempt <= total // 100


def full_pass(model: torch.nn.Module, ids: list[int], dtype: torch.dtype = torch.float32) -> Array:
    """Return the logits (T,V) of one pass over the whole sequence."""
    with torch.inference_mode():
        logits: Array = model.to(dtype)(torch.tensor([ids]))[0].numpy()
    model.float()
    return logits


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_batch_is_generated_as_one_by_one(name: str, runtime: str, sampling: Sampling) -> None:
    session = open_session(name, runtime, capacity=200)
    generator = Generator(session, chunk=16)
    seeds = [5, 3, 5, 8]
    together = generator.generate(PROMPTS, max_tokens=80, sampling=sampling, seeds=seeds, stop=["\n", " and "])
    alone = [
        generator.generate(prompt, max_tokens=80, sampling=sampling, seeds=seed, stop=["\n", " and "]).completions[0]
        for prompt, seed in zip(PROMPTS, seeds, strict=True)
    ]
    assert list(together.completions) == alone
    assert len({completion.text for completion in alone}) == len(PROMPTS)


@needs_library
def test_after_the_prefill_every_step_runs_one_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[onnxruntime.InferenceSession] = []
    create = onnxruntime.InferenceSession

    def profiled(model: Any, sess_options: onnxruntime.SessionOptions, **arguments: Any) -> Any:
        sess_options.enable_profiling = True
        sess_options.profile_file_prefix = str(tmp_path / "profile")
        sessions.append(create(model, sess_options, **arguments))
        return sessions[-1]

    path = decode_file("zoo:hsm-lm")
    monkeypatch.setattr(onnxruntime, "InferenceSession", profiled)
    result = Generator(DecodeSession(path, "ort-fused"), chunk=32).generate(
        PROMPTS, max_tokens=20, sampling=WARM, stop=["e"]
    )
    (session,) = sessions
    lengths = mixer_lengths(Path(session.end_profiling()))
    longest = max(len(prompt) for prompt in PROMPTS)
    layers = 5
    assert lengths == Counter({1: layers * result.steps, 32: layers, longest - 32: layers})
    assert result.steps < 20


def mixer_lengths(profile: Path) -> Counter[int]:
    """Count the calls of our operators in a profile by the tokens of their first input (B,T,D)."""
    return Counter(
        next(iter(event["args"]["input_type_shape"][0].values()))[1]
        for event in json.loads(profile.read_text())
        if event.get("cat") == "Node" and event.get("args", {}).get("op_name", "").endswith("Cached")
    )


def test_text_streams_in_whole_characters_and_the_result_is_its_sum() -> None:
    generator = Generator(open_session("zoo:hsm-lm", "torch"))
    with pytest.raises(UsageError, match="nothing has been generated"):
        _ = generator.result
    # At this temperature the model babbles in all bytes, broken characters too.
    pieces = list(generator.stream(["Été: ", "x"], max_tokens=50, sampling=Sampling(temperature=20.0), seeds=[1, 2]))
    result = generator.result
    assert all(isinstance(piece, Piece) and piece.text for piece in pieces)
    for row, completion in enumerate(result.completions):
        assert "".join(piece.text for piece in pieces if piece.row == row) == completion.text
        assert completion.text == bytes(completion.tokens).decode(errors="replace")
        assert (completion.reason, len(completion.tokens)) == ("length", 50)
    assert [completion.prompt_tokens for completion in result.completions] == [7, 1]
    assert (result.prompt_tokens, result.tokens, result.steps) == (8, 100, 49)
    assert result.state_bytes == 2 * 63488
    assert any(completion.text.count("\N{REPLACEMENT CHARACTER}") for completion in result.completions)


def test_stops_end_a_row_and_leave_the_others_running() -> None:
    session = open_session("zoo:hsm-lm", "torch")
    generator = Generator(session)
    free = generator.generate(PROMPTS[:2], max_tokens=60, sampling=WARM, seeds=1).completions
    stop = free[0].text[20:24]
    ended = generator.generate(PROMPTS[:2], max_tokens=60, sampling=WARM, seeds=1, stop=[stop]).completions
    for before, after in zip(free, ended, strict=True):
        assert after.text == before.text.partition(stop)[0]
        assert after.tokens == before.tokens[: len(after.tokens)]
    assert ended[0].reason == "stop"
    # The last token is chosen, not read: a stopped row idles while the others go on.
    expected = [len(prompt) + len(row.tokens) - 1 for prompt, row in zip(PROMPTS, ended, strict=False)]
    assert session.positions.tolist() == expected
    token = free[0].tokens[9]
    first = free[0].tokens.index(token)
    cut = generator.generate(PROMPTS[0], max_tokens=60, sampling=WARM, seeds=1, stop_tokens=[token]).completions[0]
    assert cut.tokens == free[0].tokens[: first + 1]
    assert cut.text == bytes(free[0].tokens[:first]).decode()
    assert cut.reason == "stop"


def test_seeds_count_up_and_repeat() -> None:
    generator = Generator(open_session("zoo:hsm-lm", "torch"))
    first = generator.generate(["And "] * 3, max_tokens=20, seeds=4)
    assert [completion.seed for completion in first.completions] == [4, 5, 6]
    assert len({completion.text for completion in first.completions}) == 3
    again = generator.generate(["And "] * 2, max_tokens=20, seeds=[6, 4])
    assert [completion.text for completion in again.completions] == [
        first.completions[2].text,
        first.completions[0].text,
    ]


@pytest.mark.parametrize("last_logits", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_files_of_last_logits_generate_the_same(last_logits: bool) -> None:
    path = decode_file("zoo:hsm-lm", **({"last_logits": True} if last_logits else {}))
    texts: list[Piece] = []
    result = generate(path, PROMPTS[0], max_tokens=30, sampling=GREEDY, runtime="ort", on_text=texts.append)
    expected = generate("zoo:hsm-lm", PROMPTS[0], max_tokens=30, sampling=GREEDY)
    assert (result.runtime, expected.runtime) == ("ort", "torch")
    assert result.completions == expected.completions
    assert "".join(piece.text for piece in texts) == result.completions[0].text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompts": []}, "no prompt"),
        ({"prompts": ["a", ""]}, "prompt 2 is empty"),
        ({"prompts": "a", "max_tokens": 0}, "max-tokens"),
        ({"prompts": ["a", "b"], "seeds": [1]}, "2 prompts, but 1 seeds"),
        ({"prompts": "a", "seeds": -1}, "seed"),
        ({"prompts": "a", "stop": [""]}, "empty"),
        ({"prompts": "a" * 60, "max_tokens": 6}, "reach 65 tokens, but the state holds 64"),
    ],
)
def test_misuse_is_refused_before_anything_runs(arguments: dict[str, Any], words: str) -> None:
    session = open_session("zoo:baseline-softmax", "torch")
    prompts = arguments.pop("prompts")
    with pytest.raises(UsageError, match=words):
        Generator(session).stream(prompts, **arguments)
    assert session.positions.tolist() == [0]


def test_a_model_of_other_token_ids_needs_its_tokenizer() -> None:
    with pytest.raises(UsageError, match="41 token ids, not the 256 bytes"):
        Generator(open_session("hsm-vector", "torch"))


def test_samples_of_a_prompt_are_those_of_the_prompt_alone() -> None:
    session = open_session("zoo:hsm-lm", "ort", capacity=100)
    prompts = PROMPTS[:2]
    several = Generator(session).generate(
        prompts, max_tokens=12, sampling=WARM, seeds=5, samples=3, top_log_probabilities=2
    )
    alone = Generator(session).generate(
        [prompt for prompt in prompts for _ in range(3)], max_tokens=12, sampling=WARM, seeds=5
    )
    assert several.completions == alone.completions
    for completion, other in zip(several.completions, alone.completions, strict=True):
        np.testing.assert_allclose(completion.log_probabilities, other.log_probabilities, atol=1e-4)
        assert completion.log_probability < 0
        assert [len(top) for top in completion.top] == [2] * 12
    with pytest.raises(UsageError, match="2 prompts of 3 samples each, but 1 seeds"):
        Generator(session).generate(prompts, samples=3, seeds=[1])
