"""`hsm-export import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import emit, json_option, phases

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..importing import ImportResult


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Checkpoint to write: a .safetensors file, or a folder.",
)
@click.option(
    "--layout",
    required=True,
    type=click.Choice(["taylor-shift", "switch-head", "moeut", "sigma-moe", "rwkv7", "based"]),
    help="Whose layout it is.",
)
@click.option("--preset", help="Published configuration that the file must have: listops, vit-s, wikitext103-47m, …")
@click.option(
    "--max-shard-size",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MB",
    help="Split the weights in an output folder into files of this size, as transformers does.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path),
    metavar="RUN.npz",
    help="Inputs and outputs of the author's own run: the import has to agree in every runtime.",
)
@click.option("--heads", type=click.IntRange(min=1), help="Heads, where the weights do not show them.")
@click.option("--active", type=click.IntRange(min=1), help="SwitchHead: experts used per token and head.")
@click.option(
    "--feed-forward-active", type=click.IntRange(min=1), help="SwitchAll: experts of the feed-forward network."
)
@click.option("--positions", type=click.Choice(["rope", "none"]), help="SwitchHead without pos_to_pk. [default: rope]")
@click.option("--rope-fraction", type=click.FloatRange(0, 1), help="Fraction of a head that RoPE turns. [default: 0.5]")
@click.option("--rope-base", type=click.FloatRange(min=1), help="Base of RoPE's wavelengths. [default: 10000]")
@click.option(
    "--activation",
    type=click.Choice(["relu", "gelu", "silu", "gelu_tanh", "sigmoid"]),
    help="Of the feed-forward network. [default: gelu; SwitchHead's relu]",
)
@click.option("--output-norm/--no-output-norm", default=None, help="TaylorShift: scale by sqrt(N/d). [default: on]")
@click.option(
    "--query-scale",
    type=click.Choice(["package", "training"]),
    help="TaylorShift without temperatures: which of the authors' codes trained it.",
)
@click.option("--input", type=click.Choice(["tokens", "pixels"]), help="TaylorShift: what ids are. [default: tokens]")
@click.option("--layers", type=click.IntRange(min=1), help="MoEUT: layers that are run in all, with shared weights.")
@click.option("--norm-eps", type=click.FloatRange(0, 1, min_open=True), help="Epsilon of every LayerNorm.")
@click.option(
    "--pooling", type=click.Choice(["token", "avg"]), help="TaylorShift: what is classified. [default: token]"
)
@click.option(
    "--cls-position/--no-cls-position",
    default=None,
    help="TaylorShift: the first position is the CLS token's (no_embed_class=False).",
)
@click.option("--image-size", type=click.IntRange(min=1), help="TaylorShift's ViT: height and width in pixels.")
@click.option(
    "--window",
    type=click.IntRange(min=0),
    help="SwitchHead: tokens that a token sees at most, itself included; 0 is all. [default: the file's blocks]",
)
@click.option("--weights-key", help="Entry of a training file that holds the weights, such as ema.")
@json_option
def command(
    source: Path,
    output: Path,
    layout: Any,
    preset: str | None,
    check: Path | None,
    max_shard_size: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn a checkpoint of TaylorShift's, SwitchHead's or their relatives' authors into ours.

    Sizes are read off the weights; what shapes do not show comes from a preset, from the training options in the
    file, or from the options below. What none of them says is assumed, printed as such, and recorded in the
    checkpoint. Pickles are read without executing anything in them.

    \b
    Examples:
      hsm-export import listops.tar -o listops.safetensors --layout taylor-shift --preset listops
      hsm-export import model-100000.pth -o wt103.safetensors --layout switch-head --active 2
      hsm-export import imdb.tar -o imdb.safetensors --layout taylor-shift --check run.npz
      hsm-export import C4_44M.ckpt -o moeut.safetensors --layout moeut
      hsm-export import sigma-moe-small/ -o sigma.safetensors --layout sigma-moe
      hsm-export import RWKV-x070-World-0.1B.pth -o rwkv7.safetensors --layout rwkv7
      hsm-export import based-360m/ -o based.safetensors --layout based
      hsm-export import vit.pth -o vit.safetensors --layout taylor-shift --no-output-norm
    """
    from ..importing import import_checkpoint

    with phases("import") as progress:
        result = import_checkpoint(
            source,
            output,
            layout=layout,
            preset=preset,
            check=check,
            shard_bytes=None if max_shard_size is None else max(1, round(max_shard_size * 1e6)),
            progress=progress,
            **options,
        )
    emit(result, as_json, _render)


def _render(result: ImportResult) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    config = result.config
    every = [layer["mixer"]["kind"] for layer in config["layers"]]
    kinds = list(dict.fromkeys(every))
    shown = [str(every.index(kind)) for kind in kinds]
    stand = "layer 0 stands for all" if len(shown) < 2 else f"layers {', '.join(shown)} stand for all of their kind"
    table = Table("authors' name", "our name", title=f"{result.source.name} → {result.output} ({stand})")
    for ours, theirs in result.names.items():
        if not ours.startswith("layers.") or ours.split(".")[1] in shown:
            table.add_row(theirs, ours)
    lines: list[RenderableType] = [
        f"{config['task'].replace('_', ' ')}, {len(every)} layers of {', '.join(kinds)}, width {config['width']}, "
        f"{result.parameters:,} parameters",
        f"fingerprint {result.fingerprint}",
    ]
    if result.ignored:
        lines.append(f"not weights, left out: {', '.join(result.ignored)}")
    given = "; ".join(f"{fact.name} {fact.value} ({fact.origin})" for fact in result.facts if not fact.assumed)
    if given:
        lines.append(Text(f"known: {given}"))
    lines += [
        Text(f"assumed: {fact.name} = {fact.value}: {fact.effect}", style="yellow")
        for fact in result.facts
        if fact.assumed
    ]
    if result.check is not None:
        from .validate import render

        lines.append(render(result.check))
    return Group(table, *lines)
