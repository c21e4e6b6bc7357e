"""`hsm-export perplexity`: how well a model predicts a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .console import emit, facts, json_option, phases

if TYPE_CHECKING:
    from rich.table import Table

    from ..decoding.perplexity import PerplexityResult


@click.command("perplexity")
@click.argument("model", type=click.Path())
@click.argument("text", type=click.Path())
@click.option("--runtime", metavar="NAME", help="ort-fused, ort, torch, … [default: the fastest that works].")
@click.option(
    "--tokenizer",
    type=click.Path(),
    help="Its tokenizer: a .json, .model, .txt or checkpoint [default: the model's own, else bytes].",
)
@click.option("--chunk", default=256, show_default=True, help="Tokens of one call.")
@json_option
def command(model: str, text: str, runtime: str | None, tokenizer: str | None, chunk: int, as_json: bool) -> None:
    """Measure how well MODEL predicts the file TEXT, each token from all tokens before it.

    MODEL is an ONNX file exported with --decode, a checkpoint, zoo:NAME or FILE.py:FACTORY. The text is read as one
    stream, with the state carried from chunk to chunk, so it may be longer than anything the model was trained on.

    \b
    Examples:
      hsm-export perplexity hsm-lm.decode.onnx book.txt
      hsm-export perplexity zoo:taylor-shift-lm book.txt --runtime torch --json
    """
    from ..decoding.perplexity import perplexity

    with phases("perplexity") as progress:
        result = perplexity(model, text, runtime=runtime, tokenizer=tokenizer, chunk=chunk, progress=progress)
    emit(result, as_json, _table)


def _table(result: PerplexityResult) -> Table:
    rows = {
        "perplexity": f"{result.perplexity:.4f} per token",
        "bits per byte": f"{result.bits_per_byte:.4f}",
        "predicted": f"{result.tokens:,} tokens, {result.bytes:,} bytes",
        "time": f"{result.seconds:.1f} s, {result.tokens / result.seconds:,.0f} tokens/s in {result.runtime}",
    }
    return facts(None, rows)
