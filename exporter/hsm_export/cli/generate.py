"""`hsm-export generate`: continue text with a model that decodes with a state."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import json_option, phases, stderr

if TYPE_CHECKING:
    from ..decoding.generator import Generation, Generator


@click.command("generate")
@click.argument("model", type=click.Path())
@click.option("--prompt", "prompts", multiple=True, help="Text to continue; repeatable, for a batch.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="File whose text is continued.")
@click.option("--max-tokens", default=200, show_default=True, help="Tokens to generate for each prompt at most.")
@click.option("--temperature", default=1.0, show_default=True, help="0 takes the likeliest token each time.")
@click.option("--top-k", type=int, help="Choose among the K likeliest tokens only.")
@click.option("--top-p", default=1.0, show_default=True, help="Choose among the likeliest that reach this probability.")
@click.option("--seed", default=0, show_default=True, help="Of the first prompt; each further one counts up.")
@click.option("--stop", multiple=True, help="Text that ends the continuation; repeatable.")
@click.option("--stop-token", "stop_tokens", type=int, multiple=True, help="Token id that ends it; repeatable.")
@click.option(
    "--tokenizer",
    type=click.Path(),
    help="Its tokenizer: a .json, .model, .txt or checkpoint [default: the model's own, else bytes].",
)
@click.option("--runtime", metavar="NAME", help="ort-fused, ort, torch, … [default: the fastest that works].")
@json_option
def command(
    model: str,
    prompts: tuple[str, ...],
    prompt_file: Path | None,
    tokenizer: str | None,
    runtime: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Continue a prompt with MODEL: an ONNX file exported with --decode, a bundle, a checkpoint, zoo:NAME or
    FILE.py:FACTORY.

    The text streams to stdout and nothing else does; times go to stderr. Several prompts are generated as one batch,
    and their texts follow each other under headings.

    The tokenizer is the one that lies in the model's folder or beside its file, as export, import and bundle leave it.

    \b
    Examples:
      hsm-export generate zoo:hsm-dictionary --prompt "quietology (noun):" --temperature 0.5 --seed 1
      hsm-export export zoo:hsm-lm --decode -o hsm-lm.decode.onnx
      hsm-export generate hsm-lm.decode.onnx --prompt "And God said" --max-tokens 200 --temperature 0.8 --seed 1
      hsm-export generate hsm-lm.decode.onnx --prompt "In the" --prompt "Behold" --temperature 0 --json
      hsm-export generate zoo:taylor-shift-lm --prompt "And the LORD" --stop "." --runtime torch
    """
    from ..decoding.generator import open_generator
    from ..decoding.sampling import Sampling

    texts = _texts(prompts, prompt_file)
    sampling = Sampling(options.pop("temperature"), options.pop("top_k"), options.pop("top_p"))
    with phases("generate") as progress:
        progress("loading")
        generator = open_generator(model, texts, options["max_tokens"], runtime=runtime, tokenizer=tokenizer)
    arguments = {"sampling": sampling, "seeds": options.pop("seed"), **options}
    if as_json or len(texts) > 1:
        result = generator.generate(texts, **arguments)
        _print_all(result, as_json)
    else:
        result = _stream(generator, texts[0], arguments)
    stderr().print(_statistics(result), soft_wrap=True)


def _texts(prompts: tuple[str, ...], prompt_file: Path | None) -> list[str]:
    """Return the prompts of the command line and of the file."""
    from ..errors import UsageError
    from ..files import require_file

    texts = list(prompts)
    if prompt_file is not None:
        content = require_file(prompt_file, "the prompt").read_bytes()
        texts.append(content.decode("utf-8", errors="surrogateescape"))
    if not texts:
        raise UsageError("there is no prompt", "give --prompt TEXT or --prompt-file FILE")
    return texts


def _stream(generator: Generator, prompt: str, arguments: dict[str, Any]) -> Generation:
    """Print the text as it comes."""
    for piece in generator.stream(prompt, **arguments):
        _write(piece.text)
        sys.stdout.flush()
    _write("\n")
    return generator.result


def _print_all(result: Generation, as_json: bool) -> None:
    import json

    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
        return
    for line in _headed(result):
        _write(line + "\n")


def _headed(result: Generation) -> Iterator[str]:
    """Yield the texts under headings, as head(1) does for several files."""
    for index, completion in enumerate(result.completions):
        yield f"==> prompt {index + 1} <=="
        yield completion.text


def _write(text: str) -> None:
    """Write to stdout; a terminal that cannot show a character gets a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))


def _statistics(result: Generation) -> str:
    rate = (result.tokens - len(result.completions)) / result.decode_seconds if result.steps else 0.0
    return (
        f"{result.runtime}: {result.prompt_tokens} prompt tokens in {result.prefill_seconds * 1e3:.0f} ms, "
        f"{result.tokens} tokens generated, {rate:.0f} tokens/s, state {result.state_bytes:,} bytes"
    )
