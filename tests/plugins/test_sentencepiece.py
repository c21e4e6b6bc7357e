"""Tokenizers of pieces in C++ against Python's: the same ids, the same text, the same pieces of a stream."""

from __future__ import annotations

import io
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.native import built
from tests.plugins.test_text import CORPUS, in_python, texts

from hsm_export.decoding.tokenizer import CharactersTokenizer, SentencePieceTokenizer, Tokenizer, open_tokenizer

DATA = Path(__file__).parent / "data"
# The smallest share of the characters that the trainer may be told to know.
RARE = {"character_coverage": 0.98}
MODELS: dict[str, dict[str, Any]] = {
    "unigram": {},
    "unigram-bytes": {"byte_fallback": True, "vocab_size": 400, "user_defined_symbols": ["<end>", "  ", "And"], **RARE},
    "unigram-identity": {
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False
    },
    "bpe": {"model_type": "bpe", "vocab_size": 200},
    "bpe-bytes": {
        "model_type": "bpe", "vocab_size": 420, "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "user_defined_symbols": ["<end>", "  "], "split_digits": True, **RARE,
    },
    "bpe-suffix": {
        "model_type": "bpe", "vocab_size": 200, "normalization_rule_name": "nmt_nfkc_cf",
        "treat_whitespace_as_suffix": True,
    },
    "word": {"model_type": "word", "vocab_size": 60, **RARE},
    "char": {"model_type": "char", "vocab_size": 100, "user_defined_symbols": ["<end>"], **RARE},
}  # fmt: skip


def train(**options: Any) -> bytes:
    """Return a .model of the corpus."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((CORPUS * 3).splitlines()),
        model_writer=model,
        minloglevel=3,
        hard_vocab_limit=False,
        **{"vocab_size": 150, **options},
    )
    return model.getvalue()


def with_unused(model: bytes, count: int) -> bytes:
    """Return the model with every third piece of two characters and more unused, up to `count`."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    long = [piece for piece in proto.pieces if piece.type == 1 and len(piece.piece) > 1]
    for piece in long[::3][:count]:
        piece.type = 5
    return bytes(proto.SerializeToString())


def lines_in_cpp(kind: str, path: Path, lines: list[str]) -> tuple[int, list[str]]:
    done = subprocess.run(
        [str(built("runtime/hsm_text_ids")), kind, str(path)],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
    )
    first, *rest = done.stdout.splitlines()
    return int(first), rest


def agree(kind: str, path: Path, tokenizer: Tokenizer, given: list[str]) -> None:
    """Hold C++ to Python: ids of texts, and what arbitrary ids decode to, one by one and at once."""
    generator = random.Random(11)
    ids = [[generator.randrange(tokenizer.vocab_size + 3) for _ in range(generator.randrange(12))] for _ in range(300)]
    listed = [f"#{' '.join(map(str, row))}" for row in ids]
    size, lines = lines_in_cpp(kind, path, [text.encode().hex() for text in given] + listed)
    assert size == tokenizer.vocab_size
    for text, line in zip(given, lines, strict=False):
        assert line == in_python(tokenizer, tokenizer.encode(text)), text
    for row, line in zip(ids, lines[len(given) :], strict=True):
        assert line == in_python(tokenizer, row), row


@pytest.mark.parametrize("name", MODELS)
def test_models_give_the_ids_of_the_library(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(**MODELS[name]))
    extra = ["ﷺ ㍿ ﬁ ①", "<s>a</s>", "<unk>", "▁a▁ ▁", "a\u0000b", "e\u0301", "<0x41>", "x" * 400, "AndAnd<end>  And"]
    agree("sentencepiece", path, SentencePieceTokenizer(path), texts(300) + extra)


@pytest.mark.parametrize("name", ["unigram", "bpe"])
def test_unused_pieces_are_taken_apart_as_in_the_library(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    path = tmp_path / "tokenizer.model"
    path.write_bytes(with_unused(train(**MODELS[name]), 40))
    agree("sentencepiece", path, SentencePieceTokenizer(path), texts(300))


def test_a_small_model_gives_the_ids_that_the_library_gave() -> None:
    """Needs no package: tests/plugins/data holds the model, and what sentencepiece 0.2.3 made of some texts."""
    expected = json.loads((DATA / "sentencepiece.json").read_text())
    _, lines = lines_in_cpp("sentencepiece", DATA / "sentencepiece.model", [t.encode().hex() for t in expected])
    for (text, ids), line in zip(expected.items(), lines, strict=True):
        assert line.split("|")[0].split() == [str(token) for token in ids], text


def test_damaged_models_are_refused_in_one_sentence(tmp_path: Path) -> None:
    whole = (DATA / "sentencepiece.model").read_bytes()
    generator = random.Random(7)
    path = tmp_path / "tokenizer.model"
    opened = 0
    for _ in range(150):
        damaged = bytearray(whole[: generator.choice([len(whole), generator.randrange(len(whole))])])
        for _ in range(generator.randrange(1, 5)):
            if damaged:
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        done = subprocess.run(
            [str(built("runtime/hsm_text_ids")), "sentencepiece", str(path)],
            input=CORPUS.encode().hex() + "\n#1 2 3 40 50\n",
            capture_output=True,
            text=True,
            timeout=20,
        )
        opened += done.returncode == 0
        assert done.returncode in (0, 1), damaged
        if done.returncode == 1:
            assert done.stderr.startswith("2 ") and done.stderr.count("\n") == 1
    assert 0 < opened < 150


def test_characters_are_those_of_python(tmp_path: Path) -> None:
    characters = "".join(sorted(set(CORPUS)))
    path = tmp_path / "characters.json"
    path.write_text(json.dumps({"characters": characters}))
    agree(
        "characters", path, CharactersTokenizer(characters), [text for text in texts(100) if set(text) <= set(CORPUS)]
    )
    _, lines = lines_in_cpp("characters", path, ["ÿ".encode().hex()])
    assert lines == [f"error the character U+00FF is not one of the tokenizer's {len(characters)}"]


@pytest.mark.parametrize(
    ("document", "words_of_it"),
    [
        ({"characters": "aa"}, "U+0061 is there twice"),
        ({"characters": ""}, "has no characters"),
        ({"characters": ["a"]}, "wrong type"),
        ({"characters": "a", "more": 1}, "unknown member"),
        ({}, "lacks 'characters'"),
    ],
)
def test_tables_of_characters_that_are_none_are_refused(document: Any, words_of_it: str, tmp_path: Path) -> None:
    (tmp_path / "characters.json").write_text(json.dumps(document))
    done = subprocess.run(
        [str(built("runtime/hsm_text_ids")), "characters", str(tmp_path / "characters.json")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("2 ") and words_of_it in done.stderr


def test_rwkv_is_that_of_python(tmp_path: Path) -> None:
    """All bytes, pieces of the corpus, and what Python's repr escapes."""
    generator = random.Random(5)
    pieces = {
        CORPUS[place : place + size]
        for place, size in ((generator.randrange(len(CORPUS)), 2 + n % 9) for n in range(400))
    }
    odd = ["\n\n", "\r\n", "\t\t", "'\"", '"', "'s", "\\n", "\x85 ", "\u2028", "\U0001f642", "\ue000x", "\x00\x01"]
    tokens: list[str | bytes] = [bytes((byte,)) for byte in range(256)]
    tokens += sorted({piece for piece in (*pieces, *odd) if len(piece.encode()) > 1})
    tokens += ["€".encode()[:2], b"\xff\xfe", b"\\'\"\n"]
    generator.shuffle(tokens)
    lines = (
        f"{index} {token!r} {len(token.encode() if isinstance(token, str) else token)}\n"
        for index, token in enumerate(tokens, 1)
    )
    path = tmp_path / "rwkv_vocab.txt"
    path.write_text("".join(lines), encoding="utf-8")
    samples = [*texts(100), *odd, "".join(odd), "a\x85\u2028\u2029b", "€ and €"]
    agree("rwkv", path, open_tokenizer(path), [text for text in samples if "\ufffd" not in text])


@pytest.mark.parametrize(
    "line",
    ["1 'a 1", "1 'a' 2", "0 'a' 1", "1 '' 0", "1 a 1", "1 'a'", "1 '\\q' 1", "1 '\\x4' 1", "1 '\\ud800' 3", "1 b'é' 2",
     "1 'a'b' 3", "99999999 'a' 1", "-1 'a' 1", "1 'a' 1\n1 'b' 1", "1 'a' 1\n2 b'a' 1", ""],
)  # fmt: skip
def test_vocabularies_that_are_none_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text(line)
    done = subprocess.run(
        [str(built("runtime/hsm_text_ids")), "rwkv", str(tmp_path / "v.txt")], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("2 ") and "v.txt" in done.stderr
