"""The zoo's dictionary: tokens of its own tokenizer, weights in float16, found and used without being told.

`held_out_meanings.txt` is the beginning of the 5 % of WordNet's meanings that it was not trained on.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import hsm_export
from hsm_export.bundling import bundle
from hsm_export.decoding.sampling import GREEDY
from hsm_export.decoding.tokenizer import RwkvTokenizer, open_tokenizer
from hsm_export.formats.tokenizer_file import tokenizer_of
from hsm_models import load_checkpoint, zoo
from hsm_models.zoo import recipes

NAME = "zoo:hsm-dictionary"
EXCERPT = Path(__file__).with_name("held_out_meanings.txt")
# What `xz -9e` makes of all meanings: 2,739,076 of 10,139,887 bytes.
XZ_BITS_PER_BYTE = 2.16


@pytest.fixture(scope="module")
def tokenizer() -> RwkvTokenizer:
    found = open_tokenizer(tokenizer_of(NAME, 2048))
    assert isinstance(found, RwkvTokenizer)
    return found


def test_weights_are_stored_in_half_and_loaded_in_float32() -> None:
    with safe_open(zoo.path("hsm-dictionary"), framework="pt") as file:
        stored = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert stored == {"F16"}
    assert {parameter.dtype for parameter in load_checkpoint(NAME).parameters()} == {torch.float32}


def test_meanings_that_it_never_saw_cost_it_fewer_bits_than_a_compressor(tokenizer: RwkvTokenizer) -> None:
    text = EXCERPT.read_text(encoding="ascii")
    ids = torch.tensor(tokenizer.encode(text))
    length = recipes.get("hsm-dictionary").settings.length
    windows = ids[: (len(ids) - 1) // length * length + 1].unfold(0, length + 1, length)
    with torch.no_grad():
        logits = load_checkpoint(NAME)(windows[:, :-1])
    chosen = torch.log_softmax(logits.double(), -1).gather(-1, windows[:, 1:, None])
    size = sum(tokenizer.byte_count(row.tolist()) for row in windows[:, 1:])
    assert -chosen.sum().item() / math.log(2) / size < XZ_BITS_PER_BYTE


def test_every_text_is_kept_by_its_tokenizer(tokenizer: RwkvTokenizer) -> None:
    for text in (EXCERPT.read_text(encoding="ascii"), "Überraschung 😀\x00\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_it_writes_the_same_from_the_checkpoint_a_file_and_a_bundle(tmp_path: Path) -> None:
    arguments = {"max_tokens": 16, "sampling": GREEDY, "stop": ["\n"]}
    expected = hsm_export.generate(NAME, "teapot (noun):", **arguments).completions[0]
    assert expected.text.isascii() and " " in expected.text.strip()
    file = tmp_path / "d.onnx"
    assert hsm_export.export(NAME, output=file, decode=True).tokenizer == tmp_path / "d.tokenizer.txt"
    bundle(decode=file, output=tmp_path / "d.hsm")
    for model in (file, tmp_path / "d.hsm"):
        assert hsm_export.generate(model, "teapot (noun):", **arguments).completions[0].tokens == expected.tokens
