"""The model of text in a Triton repository, under a stand-in for the server, and the client that chats with it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.exporter.building.hand_made import token_model
from tests.exporter.bundling.conftest import Exported
from tests.exporter.bundling.triton_server import ROOT, Model, TritonError, read, served, triton_schema

import hsm_export
import onnxruntime
from hsm_export.bundling.triton import write_repository
from hsm_export.decoding.sampling import Sampling
from hsm_export.native import find_library

LIBRARY = find_library("libhsm_runtime.so")
CHAT = ROOT / "examples" / "triton" / "chat.py"
ROWS = 3

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="this installation has no libhsm_runtime.so")


@pytest.fixture(scope="module")
def repository(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("triton") / "repository"
    assert LIBRARY is not None
    options: dict[str, Any] = {"threads": 2, "candidates": 7, "idle": 30.0, "libraries": str(LIBRARY.parent)}
    write_repository(exported.model, path, decode=exported.decode, max_batch=ROWS, **options)
    return path


@pytest.fixture(scope="module")
def model(repository: Path) -> Iterator[Model]:
    loaded = Model(repository, "lm-decode-text")
    yield loaded
    loaded.own.finalize()


def alone(exported: Exported, prompt: str, max_tokens: int, **settings: Any) -> str:
    """Return what Python's generator makes of one prompt."""
    seed = settings.pop("random_seed", 0)
    chosen = Sampling(**{"temperature": 0.0, **settings})
    result = hsm_export.generate(exported.decode, [prompt], max_tokens=max_tokens, sampling=chosen, seeds=[seed])
    return result.completions[0].text


def text(answers: Any) -> tuple[str, str]:
    """Return a reply's text and why it ended."""
    texts, reasons = zip(*((t.as_numpy()[0].decode() for t in answer.outputs) for answer in answers), strict=True)
    assert not any(reasons[:-1]) and reasons[-1]
    return "".join(texts), reasons[-1]


def test_configurations(repository: Path) -> None:
    schema = triton_schema()
    whole, sequences, generates = (read(schema, repository, name) for name in ("lm", "lm-decode", "lm-decode-text"))
    for config in (whole, sequences):
        assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert sequences.sequence_batching.oldest.max_candidate_sequences == 7
    assert sequences.sequence_batching.max_sequence_idle_microseconds == 30_000_000
    assert not sequences.model_warmup
    assert (generates.backend, generates.max_batch_size) == ("python", 0)
    assert generates.model_transaction_policy.decoupled
    assert [tensor.name for tensor in generates.input if not tensor.optional] == ["text_input"]


def test_the_warm_up_is_a_request_that_the_model_takes(repository: Path) -> None:
    import numpy as np

    (warm_up,) = read(triton_schema(), repository, "lm").model_warmup
    assert warm_up.batch_size == 1
    entry = warm_up.inputs["tokens"]
    tokens = np.fromfile(repository / "lm" / "warmup" / entry.input_data_file, np.int64).reshape(1, *entry.dims)
    session = onnxruntime.InferenceSession(str(repository / "lm" / "1" / "model.onnx"))
    assert session.run(None, {"tokens": tokens})[0].shape[1] == entry.dims[0]


def test_replies_are_those_of_the_request_alone(model: Model, exported: Exported) -> None:
    """More at a time than there are rows, streamed and not, sampled and greedy."""
    prompts = [f"And God {number}" for number in range(2 * ROWS)]
    settings = [{"temperature": 0.8, "random_seed": number} if number % 2 else {} for number in range(2 * ROWS)]
    requests = [
        model.submit({"text_input": prompt, "max_tokens": 12, "stream": number % 3 == 0, **chosen})
        for number, (prompt, chosen) in enumerate(zip(prompts, settings, strict=True))
    ]
    for prompt, chosen, request in zip(prompts, settings, requests, strict=True):
        assert text(request.answers()) == (alone(exported, prompt, 12, **chosen), "length")


def test_stop_words_end_a_reply(model: Model, exported: Exported) -> None:
    whole = alone(exported, "In the", 12)
    stop = next(letter for letter in whole[2:] if letter not in whole[:2])
    got, reason = text(model.submit({"text_input": "In the", "max_tokens": 12, "stop_words": [stop]}).answers())
    assert (got, reason) == (whole[: whole.index(stop)], "stop")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"text_input": ""}, "prompt"),
        ({"text_input": "a", "max_tokens": 0}, "at least one token"),
        ({"text_input": "a", "max_tokens": 2, "temperature": -1.0}, "temperature"),
        ({"text_input": "a" * 40}, "32"),
    ],
)
def test_refusals_are_responses(model: Model, document: dict[str, Any], said: str) -> None:
    (answer,) = model.submit(document).answers()
    assert answer.error is not None and said in str(answer.error)
    assert answer.error.code in (TritonError.INVALID_ARG, "internal")


def test_a_client_that_goes_away_gives_its_row_back(model: Model) -> None:
    request = model.submit({"text_input": "And", "max_tokens": 28, "stream": True})
    request.cancelled = True
    answers = list(request.answers())
    assert len(answers) <= 29
    deadline = time.monotonic() + 30
    while model.own._jobs and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not model.own._jobs


def test_a_chat_through_http(model: Model, exported: Exported) -> None:
    with served(model) as address:
        command = [sys.executable, str(CHAT), address, "lm-decode-text", "5"]
        chat = subprocess.run(command, input="Hi\nAnd\n", capture_output=True, text=True, timeout=120, check=False)
        assert chat.returncode == 0, chat.stderr
        conversation, replies = "", []
        for turn in ("Hi\n", "And\n"):
            conversation += turn
            replies.append(alone(exported, conversation, 5).partition("\n")[0])
            conversation += replies[-1] + "\n"
        assert chat.stdout == "".join(f"{reply}\n" for reply in replies)

        def whole(prompt: str) -> str:
            body = json.dumps({"text_input": prompt, "max_tokens": 6}).encode()
            request = urllib.request.Request(f"{address}/v2/models/lm-decode-text/generate", data=body)
            with urllib.request.urlopen(request) as response:
                return str(json.load(response)["text_output"])

        with ThreadPoolExecutor(8) as pool:
            prompts = [f"In the {number}" for number in range(8)]
            assert list(pool.map(whole, prompts)) == [alone(exported, prompt, 6) for prompt in prompts]
        refused = subprocess.run(command, input="x" * 40, capture_output=True, text=True, timeout=120, check=False)
        assert refused.returncode == 1 and "32" in refused.stderr


def test_without_a_tokenizer_there_is_no_model_of_text(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(hsm_export.errors.HsmExportError):
        write_repository(None, tmp_path / "a", decode=exported.decode, tokenizer=tmp_path / "no.json")
    result = write_repository(token_model(tmp_path / "plain.onnx"), tmp_path / "b")
    assert list(result.models) == ["plain"]
