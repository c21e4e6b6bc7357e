"""Text in C++ against Python's: the same ids, the same text, the same pieces of a stream."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.native import built

from hsm_export.decoding.tokenizer import BytesTokenizer, HuggingFaceTokenizer, Tokenizer

CORPUS = (
    "In the beginning God created the heaven and the earth. It's 1611, don't they'll we'VE I'D naïve – 日本語 🙂\n"
    "  And   the earth was without form,\tand void;\r\n\r\n x = 3.14159 * (y_2 + ½) ² ー ünïcödé über Straße  \n\n"
    "Привет мир 12345678 ٣٤٥ नमस्ते 🙂🙂 <end> a<end>b  'sſ 'ſ \x00\x01 ​ \u3000全角　スペース!? ...\n"
)
ALPHABET = [*dict.fromkeys(CORPUS), *" \n's\réſ🙂", " "]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def texts(count: int) -> list[str]:
    """Return pieces of the corpus and random strings of its characters."""
    generator = random.Random(5)
    found = ["", " ", "  a", CORPUS]
    for _ in range(count):
        start = generator.randrange(len(CORPUS))
        found.append(CORPUS[start : start + generator.randrange(40)])
        found.append("".join(generator.choice(ALPHABET) for _ in range(generator.randrange(24))))
    return found


def in_cpp(kind: str, path: Path | str, given: list[bytes]) -> tuple[int, list[str]]:
    done = subprocess.run(
        [str(built("runtime/hsm_text_ids")), kind, str(path)],
        input="\n".join(text.hex() for text in given) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    first, *rest = done.stdout.splitlines()
    return int(first), rest


def in_python(tokenizer: Tokenizer, ids: list[int]) -> str:
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    pieces.append(stream.finish())
    numbers = "".join(f"{token} " for token in ids)
    return f"{numbers}|{tokenizer.decode(ids).encode().hex()}|{','.join(piece.encode().hex() for piece in pieces)}"


def test_bytes_are_those_of_python() -> None:
    generator = random.Random(3)
    given = [text.encode() for text in texts(50)]
    broken = [generator.randbytes(20) for _ in range(200)]
    size, lines = in_cpp("bytes", "", given + broken)
    tokenizer = BytesTokenizer()
    assert size == 256
    assert lines[: len(given)] == [in_python(tokenizer, list(text)) for text in given]
    # Python sees one token later that 0xED 0xA0 begins no character.
    for line, text in zip(lines[len(given) :], broken, strict=True):
        assert line.replace(",", "") == in_python(tokenizer, list(text)).replace(",", "")


def byte_level(split: dict[str, Any] | None = None, **options: Any) -> Callable[[], Any]:
    """Return a maker of a byte-level BPE, trained on the corpus."""

    def make() -> Any:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE(**options))
        level = pre_tokenizers.ByteLevel(add_prefix_space=split is None, use_regex=split is None)
        tokenizer.pre_tokenizer = level
        if split is not None:
            parts = [pre_tokenizers.Split(Regex(split["regex"]), "isolated"), level]
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<end>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([CORPUS], trainer)
        return tokenizer

    return make


def llama2() -> Any:
    """Return a BPE as SentencePiece's are converted to: marks for spaces, bytes for what it lacks."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=["<unk>", "<end>"], show_progress=False)
    trained.train_from_iterator([CORPUS[:200]], trainer)
    document = json.loads(trained.to_str())
    vocabulary = document["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    merges = [tuple(item) for item in document["model"]["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<unk>", "<end>"])
    return tokenizer


def unigram(scheme: str, falls_back: bool) -> Callable[[], Any]:
    """Return a maker of a unigram model with marks for spaces."""

    def make() -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        trained = Tokenizer(models.Unigram())
        trained.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        )
        trained.train_from_iterator([CORPUS[:300]], trainer)
        pieces = [tuple(item) for item in json.loads(trained.to_str())["model"]["vocab"]]
        if falls_back:
            pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
        tokenizer = Tokenizer(models.Unigram(pieces, 0, falls_back))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        steps = [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)]
        tokenizer.decoder = decoders.Sequence(steps)
        tokenizer.add_special_tokens(["<end>"])
        return tokenizer

    return make


def characters() -> Any:
    """Return a tokenizer whose tokens are characters."""
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {"<unk>": 0, **{letter: index + 1 for index, letter in enumerate(sorted(set(CORPUS[:120])))}}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def words(name: str) -> Callable[[], Any]:
    """Return a maker of a table of words, split by one of the library's own rules."""

    def make() -> Any:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        splitters = {
            "whitespace": pre_tokenizers.Whitespace(),
            "blanks": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(True)]),
            "digits": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(False)]),
            "text": pre_tokenizers.Sequence(
                [pre_tokenizers.Split(" ", "merged_with_previous"), pre_tokenizers.Split("\n", "isolated")]
            ),
        }
        pieces = {piece for piece, _ in splitters[name].pre_tokenize_str(CORPUS)}
        vocabulary = {word: index for index, word in enumerate(sorted(pieces))}
        tokenizer = Tokenizer(models.WordLevel({**vocabulary, "<unk>": len(vocabulary)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = splitters[name]
        if name == "whitespace":
            tokenizer.normalizer = normalizers.NFC()
        return tokenizer

    return make


KINDS: dict[str, Callable[[], Any]] = {
    "gpt2": byte_level(),
    "llama3": byte_level({"regex": LLAMA3}, ignore_merges=True),
    "qwen2": byte_level({"regex": LLAMA3.replace("{1,3}", "")}),
    "llama2": llama2,
    "unigram": unigram("always", False),
    "unigram-bytes": unigram("first", True),
    "unigram-never": unigram("never", True),
    "characters": characters,
    **{name: words(name) for name in ("whitespace", "blanks", "digits", "text")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_json_gives_the_ids_of_the_library(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    KINDS[kind]().save(str(path))
    tokenizer = HuggingFaceTokenizer(path)
    given = texts(300)
    size, lines = in_cpp("huggingface", path, [text.encode() for text in given])
    assert size == tokenizer.vocab_size
    refused = 0
    for text, line in zip(given, lines, strict=True):
        if line.startswith("error"):
            assert "normal form" in line
            refused += 1
            continue
        assert line == in_python(tokenizer, tokenizer.encode(text)), text
    assert refused < len(given) / 2 if kind == "whitespace" else refused == 0


@pytest.mark.parametrize(
    ("part", "value", "words_of_it"),
    [
        ("normalizer", {"type": "Lowercase"}, "the normalizer Lowercase"),
        ("pre_tokenizer", {"type": "BertPreTokenizer"}, "the pre-tokenizer BertPreTokenizer"),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated"}, "Split by x"),
        ("decoder", {"type": "CTC"}, "the decoder CTC"),
        ("model", {"type": "WordPiece", "vocab": {}}, "the model WordPiece"),
        ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}, "'dropout'"),
    ],
)
def test_parts_that_are_not_known_are_named(part: str, value: Any, words_of_it: str, tmp_path: Path) -> None:
    document = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, part: value}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    done = subprocess.run(
        [str(built("runtime/hsm_text_ids")), "huggingface", str(tmp_path / "tokenizer.json")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("3 ") and words_of_it in done.stderr
