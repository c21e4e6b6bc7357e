"""Text comes back as it went in, and never in broken characters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_export.decoding.tokenizer import (
    BytesTokenizer,
    CharactersTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    check_vocabulary,
    open_tokenizer,
    tokenizer_kind,
)
from hsm_export.errors import BadInputError, MissingDependencyError, UsageError

TEXT = "naïve – 日本語 🙂\n"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_bytes_stream_whole_characters_only(text: str) -> None:
    tokenizer = BytesTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_count(ids) == len(ids)
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) == text
    assert all(len(piece) <= 1 for piece in pieces)
    assert stream.finish() == ""


@given(st.binary())
def test_a_stream_of_any_bytes_is_their_text(data: bytes) -> None:
    stream = BytesTokenizer().stream()
    text = "".join(stream.push(token) for token in data) + stream.finish()
    assert text == data.decode("utf-8", errors="replace")


def test_bytes_that_are_not_text_come_back_as_they_were() -> None:
    raw = b"caf\xe9"
    assert bytes(BytesTokenizer().encode(raw.decode("utf-8", errors="surrogateescape"))) == raw


@pytest.fixture
def byte_level(tmp_path: Path) -> Path:
    """A byte-level tokenizer.json with one merge, so that an id may be half a character or two."""
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, "th", "<end>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_hugging_face_ids_stream_whole_characters(byte_level: Path) -> None:
    tokenizer = HuggingFaceTokenizer(byte_level)
    assert tokenizer.vocab_size == 258
    ids = tokenizer.encode("the " + TEXT)
    assert len(ids) == len(("the " + TEXT).encode()) - 1
    assert tokenizer.decode(ids) == "the " + TEXT
    assert tokenizer.byte_count(ids) == len(("the " + TEXT).encode())
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) == "the " + TEXT
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert stream.finish() == ""


def test_special_tokens_have_no_text_and_half_characters_end_as_replacements(byte_level: Path) -> None:
    tokenizer = HuggingFaceTokenizer(byte_level)
    stream = tokenizer.stream()
    assert stream.push(257) == ""
    first_half = tokenizer.encode("é")[0]
    assert stream.push(first_half) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
    assert stream.finish() == ""


def test_metaspace_tokenizers_keep_the_spaces_between_words(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"▁so": 0, "▁be": 1, "▁it": 2}, unk_token="▁it"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours = HuggingFaceTokenizer(tmp_path / "tokenizer.json")
    stream = ours.stream()
    assert "".join(stream.push(token) for token in ours.encode("so be it")) == "so be it"


def test_bad_tokenizers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(BadInputError, match="does not exist"):
        open_tokenizer(path)
    path.write_text(json.dumps({"model": "none"}))
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match="tokenizers"):
        open_tokenizer(path)
    monkeypatch.undo()
    pytest.importorskip("tokenizers")
    with pytest.raises(BadInputError, match=r"not a Hugging Face tokenizer\.json"):
        open_tokenizer(path)


def test_a_tokenizer_must_fit_the_model() -> None:
    check_vocabulary(BytesTokenizer(), 256)
    with pytest.raises(UsageError, match="32000 token ids, not the 256 bytes"):
        check_vocabulary(BytesTokenizer(), 32000)

    class Large(BytesTokenizer):
        vocab_size = 300

    with pytest.raises(UsageError):
        check_vocabulary(Large(), 256)


SENTENCEPIECE = Path(__file__).parents[2] / "plugins" / "data" / "sentencepiece.model"


def test_characters_come_back(tmp_path: Path) -> None:
    path = tmp_path / "characters.json"
    text = "aé🙂 \n"
    path.write_text(json.dumps({"characters": text + "x"}))
    tokenizer = open_tokenizer(path)
    assert tokenizer_kind(path) == "characters"
    assert tokenizer.vocab_size == 6
    ids = tokenizer.encode(text)
    assert ids == [0, 1, 2, 3, 4]
    assert tokenizer.decode([*ids, 999]) == text
    assert tokenizer.byte_count(ids) == len(text.encode())
    stream = tokenizer.stream()
    assert [stream.push(token) for token in ids] == list(text)
    with pytest.raises(UsageError, match=r"U\+0051 is not one of the tokenizer's 6"):
        tokenizer.encode("Q")


@pytest.mark.parametrize("characters", ["", "aba"])
def test_characters_are_there_once(characters: str) -> None:
    with pytest.raises(BadInputError, match=r"no characters|U\+0061 twice"):
        CharactersTokenizer(characters)


def test_a_checkpoint_of_characters_is_their_tokenizer(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    from safetensors.numpy import save_file

    weights = {"weight": numpy.zeros(1, numpy.float32)}
    save_file(weights, tmp_path / "char.safetensors", {"level": "char", "vocabulary": json.dumps("abc")})
    assert open_tokenizer(tmp_path / "char.safetensors").encode("cab") == [2, 0, 1]
    save_file(weights, tmp_path / "byte.safetensors", {"level": "byte"})
    with pytest.raises(BadInputError, match="lists no characters"):
        open_tokenizer(tmp_path / "byte.safetensors")


def test_sentencepiece_is_known_by_its_suffix(tmp_path: Path) -> None:
    assert tokenizer_kind(SENTENCEPIECE) == "sentencepiece"
    pytest.importorskip("sentencepiece")
    tokenizer = SentencePieceTokenizer(SENTENCEPIECE)
    ids = tokenizer.encode("naïve ﬁne 日本語 🙂")
    assert tokenizer.decode(ids) == "naïve fine 日本語 🙂"
    assert tokenizer.decode([*ids, tokenizer.vocab_size]) == tokenizer.decode(ids)
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)
    assert tokenizer.byte_count(ids) == len(tokenizer.decode(ids).encode())
    (tmp_path / "no.model").write_bytes(b"no model")
    with pytest.raises(BadInputError, match="not a model of SentencePiece"):
        open_tokenizer(tmp_path / "no.model")


def test_marks_alone_do_not_begin_a_text() -> None:
    pytest.importorskip("sentencepiece")
    tokenizer = SentencePieceTokenizer(SENTENCEPIECE)
    mark, word = tokenizer.encode(" the")[0], tokenizer.encode("a b")
    ids = [*word, mark, mark, *word]
    stream = tokenizer.stream()
    assert "".join(stream.push(token) for token in ids) + stream.finish() == tokenizer.decode(ids)


def rwkv_lines(tokens: list[str | bytes]) -> str:
    """Return a vocabulary as RWKV's authors write it."""
    return "".join(f"{index} {token!r} {len(as_bytes(token))}\n" for index, token in enumerate(tokens, 1))


def as_bytes(token: str | bytes) -> bytes:
    return token.encode() if isinstance(token, str) else token


def test_rwkv_takes_the_longest_token(tmp_path: Path) -> None:
    path = tmp_path / "rwkv_vocab.txt"
    bytes_alone: list[str | bytes] = [bytes((byte,)) for byte in range(256) if byte not in b"ab"]
    path.write_text(rwkv_lines(["a", "b", "ab", "abab", "'\"\n", "\x85\u2028", "é", "\\x", *bytes_alone]))
    tokenizer = open_tokenizer(path)
    assert tokenizer_kind(path) == "rwkv" and tokenizer.vocab_size == 8 + 254 + 1
    assert tokenizer.encode("ababab") == [4, 3]
    assert tokenizer.encode("aab'\"\n\x85\u2028é\\x") == [1, 3, 5, 6, 7, 8]
    euro = tokenizer.encode("€")
    assert len(euro) == 3 and tokenizer.decode([0, *euro, 9999]) == "€" and tokenizer.byte_count(euro) == 3
    stream = tokenizer.stream()
    assert [stream.push(token) for token in [*euro, 2]] == ["", "", "€", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no tokens"),
        ("1 'a' 1\n1 'b' 1\n", "line 2: the id is there already"),
        ("1 'a' 1\n2 b'a' 1\n", "line 2: the token is there already"),
        ("1 'a' 2\n", "line 1 is no line"),
        ("0 'a' 1\n", "line 1 is no line"),
        ("1 '' 0\n", "line 1 is no line"),
        ("x 'a' 1\n", "line 1 is no line"),
        ("1 open('a') 1\n", "line 1 is no line"),
        ("1 12 2\n", "line 1 is no line"),
        ("9999999 'a' 1\n", "line 1 is no line"),
    ],
)
def test_vocabularies_that_are_none(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(BadInputError, match=said):
        open_tokenizer(tmp_path / "v.txt")


def test_a_byte_without_a_token(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text(rwkv_lines(["a"]))
    with pytest.raises(UsageError, match="no token for the byte 0x62"):
        open_tokenizer(tmp_path / "v.txt").encode("ab")
