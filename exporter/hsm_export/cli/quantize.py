"""`hsm-export quantize`: weights in fewer bits within a proved budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .console import emit, json_option, phases

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..quantisation import QuantiseResult


@click.command("quantize")
@click.argument("model", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="The file to write.")
@click.option("--budget", metavar="METRIC=LIMIT", help="kl=1e-3, top1=0.99, perplexity=+0.5% or error=0.01.")
@click.option("--calibration", type=click.Path(), help="A text, or an .npz file of inputs; half of it is held out.")
@click.option(
    "--tokenizer", type=click.Path(), help="Its tokenizer, as for `generate` [default: the file's own, else bytes]."
)
@click.option(
    "--objective", type=click.Choice(["size", "decode", "prefill"]), default="size", show_default=True,
    help="What to make small: the file, the bytes read for a token, or the time of a prompt.",
)  # fmt: skip
@click.option(
    "--dialect", type=click.Choice(["ort", "qdq"]), default="ort", show_default=True,
    help="ONNX Runtime's operators, or DequantizeLinear as TensorRT and OpenVINO take it.",
)  # fmt: skip
@click.option("--plan", type=click.Path(), help="Obey this plan instead of searching one.")
@click.option("--save-plan", type=click.Path(), metavar="FILE", help="Write the plan to a file of its own too.")
@json_option
def command(
    model: str,
    output: str,
    budget: str | None,
    calibration: str | None,
    tokenizer: str | None,
    objective: str,
    dialect: str,
    plan: str | None,
    save_plan: str | None,
    as_json: bool,
) -> None:
    """Store the weights of MODEL, an ONNX file in float32, in as few bits as a budget allows.

    Every weight gets the cheapest of float32, float16, int8 and int4 with which the whole file keeps the budget on
    inputs that the search never saw, with 95 % confidence; none could take its next cheaper form. Without a
    calibration a language model exported with --decode writes text itself; for other models inputs are drawn at random.
    Scores that choose experts, norms, temperatures and states are never quantised.

    \b
    Examples:
      hsm-export quantize hsm-lm.onnx -o hsm-lm.q.onnx --budget kl=1e-3
      hsm-export quantize hsm-lm.onnx -o hsm-lm.q.onnx --budget top1=0.99 --calibration book.txt
      hsm-export quantize hsm-lm.onnx -o hsm-lm.q.onnx --budget perplexity=+0.5% --objective decode
      hsm-export quantize hsm-lm.onnx -o hsm-lm.qdq.onnx --budget kl=1e-3 --dialect qdq
    """
    from ..quantisation import quantize

    with phases("quantize") as progress:
        result = quantize(
            model, output, budget, calibration=calibration, tokenizer=tokenizer, objective=objective,  # type: ignore[arg-type]
            dialect=dialect, plan=plan, progress=progress,  # type: ignore[arg-type]
        )  # fmt: skip
    if save_plan is not None:
        result.plan.write(save_plan)
    emit(result, as_json, render)


def render(result: QuantiseResult) -> RenderableType:
    """Return the forms of the weights, what they cost, and the outcome."""
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    plan = result.plan
    table = Table(title=f"{plan.source} within {plan.budget.text}", title_justify="left", box=box.SIMPLE)
    table.add_column("weight")
    table.add_column("operator")
    for heading in ("numbers", "form", "bits", "next cheaper", "loss with it"):
        table.add_column(heading, justify="right", no_wrap=True)
    for item in plan.weights:
        form = f"{item.form}, {item.rounding}" if item.rounding == "gptq" else item.form
        without = "–" if item.without is None else f"{item.without:.2e}"
        table.add_row(
            escape(item.name),
            item.operator,
            f"{item.elements:,}",
            form,
            f"{item.bits:.2f}",
            item.cheaper or "–",
            without,
        )
    metric = plan.budget.metric
    lines = [
        Text(f"calibration: {plan.calibration}; half of it was held out", style="dim"),
        Text(f"inputs of the search: {plan.searched.words(metric)} ({plan.searched.positions:,} predictions)"),
        Text(f"held-out inputs:      {plan.held_out.words(metric)} ({plan.held_out.positions:,} predictions)"),
        Text(
            f"{plan.bytes_before:,} to {result.bytes:,} bytes; {plan.trials} choices measured in {plan.seconds:.0f} s"
        ),
    ]
    if plan.activations == "int8":
        lines.insert(0, Text("products with blocks round activations to 8 bits; the losses count it", style="dim"))
    if plan.never:
        lines.insert(0, Text(f"never quantised: {len(plan.never)} weights that choose experts", style="dim"))
    return Group(table, *lines, Text(plan.summary, style="bold green"))
