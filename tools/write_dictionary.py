#!/usr/bin/env python3
"""Make the data of the zoo model `hsm-dictionary` from WordNet 3.0: one line a meaning, as token ids in .cache/.

    owl, bird of Minerva, hooter (noun): nocturnal bird of prey with hawk-like beak and claws ...

Proper names are left out, the meanings stand in one random order, and so do the words of a meaning. Prints the .npy
file of ids (N,) uint16. With --vocabulary, first makes the tokenizer anew: the committed one belongs to the weights.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = ROOT / "models" / "hsm_models" / "zoo" / "hsm-dictionary.tokenizer.txt"
_SYMBOLS = 2048  # id 0 ends a text in RWKV's format and has no token
_SEED = 2026
_PARTS = ("noun", "verb", "adj", "adv")
_KINDS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}


def meanings(database: Path) -> Iterator[tuple[list[str], str, str]]:
    """Yield the words, the kind and the gloss of each meaning in WordNet's files `data.*`, see wndb(5WN)."""
    for part in _PARTS:
        for line in (database / f"data.{part}").read_text(encoding="ascii").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields, _, gloss = line.partition("|")
            _, _, kind, count, *rest = fields.split()
            marked = rest[: 2 * int(count, 16) : 2]
            words = [re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ") for word in marked]
            yield words, _KINDS[kind], gloss.strip()


def dictionary(database: Path) -> str:
    """Return the dictionary, one line a meaning."""
    common = [([word for word in words if word == word.lower()], *rest) for words, *rest in meanings(database)]
    entries = [entry for entry in common if entry[0]]
    order = random.Random(_SEED)
    order.shuffle(entries)
    lines = []
    for words, kind, gloss in entries:
        order.shuffle(words)
        lines.append(f"{', '.join(words)} ({kind}): {gloss}\n")
    return "".join(lines)


def write_vocabulary(text: str, path: Path) -> None:
    """Write byte pairs that compress the text well, and all single bytes, in the format of RWKV's vocabularies."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=_SYMBOLS - 1, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    letters = _letters_of_bytes()
    tokens = sorted((bytes(letters[letter] for letter in token) for token in tokenizer.get_vocab()), key=_short_first)
    with path.open("w", encoding="ascii") as file:
        for index, token in enumerate(tokens, 1):
            literal = repr(token.decode("ascii") if token.isascii() else token)
            file.write(f"{index} {literal} {len(token)}\n")


def _short_first(token: bytes) -> tuple[int, bytes]:
    return len(token), token


def _letters_of_bytes() -> dict[str, int]:
    """Return the byte of each letter that GPT-2's byte-level alphabet writes it with."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    from hsm_export.decoding.tokenizer import open_tokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", action="store_true", help="make the tokenizer anew, which needs new weights")
    options = parser.parse_args(arguments)
    fetched = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "fetch.py"), "wordnet"], stdout=subprocess.PIPE, text=True
    )
    if fetched.returncode != 0:
        return fetched.returncode
    folder = Path(fetched.stdout.strip())
    text = dictionary(folder / "usr" / "share" / "wordnet")
    if options.vocabulary:
        write_vocabulary(text, VOCABULARY)
    (folder / "dictionary.txt").write_text(text, encoding="ascii")
    np.save(folder / "dictionary.npy", np.array(open_tokenizer(VOCABULARY).encode(text), np.uint16))
    print(folder / "dictionary.npy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
