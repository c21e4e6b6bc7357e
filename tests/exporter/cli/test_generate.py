"""`hsm-export generate` and `hsm-export perplexity` as real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from tests.exporter.decoding.harness import decode_file

from hsm_export import cli

PROMPT = "And God said"
GREEDY = ("--prompt", PROMPT, "--max-tokens", "24", "--temperature", "0")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "hsm_export", *arguments], capture_output=True)


@pytest.fixture
def model() -> Path:
    return decode_file("zoo:hsm-lm")


def test_text_alone_goes_to_stdout_and_times_to_stderr(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run("generate", model, *GREEDY, "--runtime", "ort")
    assert done.returncode == 0, done.stderr
    assert cli.run(["generate", "zoo:hsm-lm", *GREEDY, "--json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    (completion,) = as_json["completions"]
    assert done.stdout.decode() == completion["text"] + "\n"
    assert (len(completion["tokens"]), completion["reason"], completion["seed"]) == (24, "length", 0)
    assert as_json["runtime"] == "torch"
    assert "ort: 12 prompt tokens in" in done.stderr.decode()
    assert "tokens/s" in done.stderr.decode()


def test_a_batch_follows_under_headings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"caf\xe9 ")
    arguments = ["--prompt", "Behold", "--prompt-file", str(tmp_path / "prompt.txt"), "--max-tokens", "9"]
    assert cli.run(["generate", "zoo:hsm-lm", *arguments, "--seed", "3", "--top-k", "5", "--top-p", "0.9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("==>")] == ["==> prompt 1 <==", "==> prompt 2 <=="]
    assert cli.run(["generate", "zoo:hsm-lm", *arguments, "--seed", "3", "--stop", " ", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [completion["prompt_tokens"] for completion in result["completions"]] == [6, 5]
    assert [completion["seed"] for completion in result["completions"]] == [3, 4]
    assert all(" " not in completion["text"] for completion in result["completions"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("zoo:hsm-lm",), 2, "there is no prompt"),
        (("zoo:hsm-lm", "--prompt", ""), 2, "prompt 1 is empty"),
        (("zoo:hsm-lm", "--prompt", "x", "--runtime", "magic"), 2, "choose from ort-fused, ort, "),
        (("zoo:hsm-lm", "--prompt", "x", "--temperature", "-1"), 2, "temperature"),
        (("zoo:hsm-lm", "--prompt", "x", "--max-tokens", "0"), 2, "max-tokens"),
        (("zoo:hsm-lm", "--prompt", "x", "--prompt-file", "none.txt"), 4, "the prompt none.txt does not exist"),
        (("zoo:hsm-lm", "--prompt", "x", "--tokenizer", "none.json"), 4, "the tokenizer none.json does not exist"),
        (("zoo:taylor-shift-digits", "--prompt", "x"), 2, "does not decode"),
        (("none.onnx", "--prompt", "x"), 4, "none.onnx does not exist"),
        (("zoo:none", "--prompt", "x"), 4, "no model 'none'"),
    ],
)
def test_misuse_is_one_clear_line(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["generate", *arguments]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_a_file_without_a_state_says_how_to_get_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stateless = onnx.load(model)
    kept = [item for item in stateless.metadata_props if item.key != "hsm_export.state"]
    del stateless.metadata_props[:]
    stateless.metadata_props.extend(kept)
    onnx.save(stateless, tmp_path / "full.onnx")
    assert cli.run(["generate", str(tmp_path / "full.onnx"), "--prompt", "x", "--runtime", "ort"]) == 4
    captured = capsys.readouterr()
    assert "has no state to decode with" in captured.err
    assert "--decode" in captured.err
    assert captured.out == ""


def test_perplexity_prints_a_table_and_json(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("In the beginning God created the heaven and the earth. " * 9)
    assert cli.run(["perplexity", str(model), str(text), "--runtime", "ort"]) == 0
    table = capsys.readouterr()
    assert cli.run(["perplexity", "zoo:hsm-lm", str(text), "--chunk", "50", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["tokens"] == result["bytes"] == 9 * 55 - 1
    assert f"{result['bits_per_byte']:.4f}" in table.out
    assert "tokens/s in ort" in table.out
    assert "perplexity: " in table.err
    assert cli.run(["perplexity", str(model), str(tmp_path / "none.txt")]) == 4
    captured = capsys.readouterr()
    assert "the text" in captured.err
    assert captured.out == ""
