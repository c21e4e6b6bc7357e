"""Command `diff`: where runtimes of a file part, or what changed from one file to another."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import emit, json_option, phases
from .validate import SHAPE_HELP, limits_of, runtime_names, shape_pairs

if TYPE_CHECKING:
    from ..diffing.options import DiffOptions
    from ..diffing.results import DiffResult
    from ..limits import Limits


@click.command("diff")
@click.argument("model", type=click.Path())
@click.argument("new", type=click.Path(), required=False)
@click.option(
    "--against", metavar="CHECKPOINT", help="Source that was exported: a checkpoint, zoo:NAME or FILE.py:FACTORY."
)
@click.option(
    "--runtimes",
    callback=runtime_names,
    metavar="A,B",
    help="Runtimes to compare, as in ort:level=0,mine.py:Mine [default: all that work here].",
)
@click.option(
    "--reference", metavar="NAME|FILE.npz", help="Whose numbers count as right [default: torch64, or onnx64]."
)
@click.option("--inputs", type=click.Path(), metavar="DATA", help="Inputs: an .npz file, or text for a language model.")
@click.option("--tokenizer", type=click.Path(), metavar="JSON", help="The tokenizer of the text, as for `generate`.")
@click.option("--shape", "shapes", multiple=True, callback=shape_pairs, metavar="BATCHxLENGTH", help=SHAPE_HELP)
@click.option("--layers/--no-layers", default=None, help="Compare every layer [default: where an output differs].")
@click.option("--bisect", is_flag=True, help="Find the smallest set of nodes that makes an output fail.")
@click.option(
    "--generate", type=click.IntRange(0), help="Tokens to generate greedily [default: 32; large models none]."
)
@click.option(
    "--fail-on", multiple=True, metavar="RULE", help="What gives exit code 5; repeatable [default: output,layer]."
)
@click.option("--baseline", type=click.Path(), metavar="OLD.json", help="Older report; says what got worse since.")
@click.option("--html", type=click.Path(), metavar="FILE", help="Write the report as one HTML file.")
@click.option("--markdown", type=click.Path(), metavar="FILE", help="Write it for a pull request.")
@click.option("--junit", type=click.Path(), metavar="FILE", help="Write it for a CI server.")
@click.option("--save", type=click.Path(), metavar="FILE", help="Write it as JSON, for --baseline.")
@click.option(
    "--node-data", type=click.Path(), metavar="FILE", help="Write every node's error as an overlay for Model Explorer."
)
@click.option("--repro", type=click.Path(), metavar="DIR", help="Write the nodes at fault, each with its real inputs.")
@click.option("--polygraphy", type=click.Path(), metavar="DIR", help="Write inputs and outputs in Polygraphy's format.")
@click.option("--precision-plan", type=click.Path(), metavar="FILE", help="Write which nodes must stay in fp32.")
@click.option("--target-error", type=click.FloatRange(min=0, min_open=True), help="Error that the plan keeps to.")
@click.option("--max-seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after so many seconds.")
@click.option(
    "--max-memory", type=click.FloatRange(min=0, min_open=True), metavar="MB", help="Stop beyond so much memory."
)
@json_option
def command(
    model: str,
    new: str | None,
    runtimes: tuple[str, ...] | None,
    shapes: tuple[tuple[int, int], ...] | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say where the runtimes of MODEL part, from which node on, and what that does to the model.

    With a second file: what changed from MODEL to NEW, in structure, weights and numbers.
    Layers are held to their own maths in float64 on the inputs that the runtime fed to them, so that a node's own
    error is told from what it inherits. Exit code 5 when a rule of --fail-on holds, 7 when nothing differs but
    something could not be judged, 8 when --max-seconds or --max-memory ended it early.

    \b
    Examples:
      hsm-export diff hsm-lm.onnx --against zoo:hsm-lm --layers --html report.html
      hsm-export diff model.onnx --runtimes ort,ort-fused --bisect --repro repro/
      hsm-export diff hsm-lm.onnx --inputs text.txt --fail-on 'kl>1e-3' --fail-on 'perplexity>1%'
      hsm-export diff model.onnx --save today.json --baseline yesterday.json --fail-on regression
      hsm-export diff hsm-lm-fp16.onnx --against zoo:hsm-lm --precision-plan plan.json
      hsm-export diff old.onnx new.onnx
    """
    if new is not None:
        from .diff_files import compare_files

        compare_files(model, new, runtimes, shapes, options, as_json)
        return
    from ..diffing.options import DiffOptions
    from ..diffing.reporting.terminal import render
    from ..diffing.rules import DEFAULT
    from ..errors import LimitError, NotJudgedError, NumbersDifferError

    limits = limits_of(options["max_seconds"], options["max_memory"])
    chosen = DiffOptions(
        # Who asks for a rule on layers, or for their picture, asks for layers.
        layers=True
        if options["node_data"] or "layer" in ",".join(options["fail_on"]).split(",")
        else options["layers"],
        bisect=options["bisect"],
        generate=options["generate"],
        fail_on=options["fail_on"] or DEFAULT,
        baseline=options["baseline"],
        repro=options["repro"],
        polygraphy=options["polygraphy"],
        max_seconds=options["max_seconds"],
        max_bytes=limits.bytes if limits is not None else None,
        command=shlex.join(["hsm-export", *sys.argv[1:]]),
    )
    with phases("diff") as progress:
        given = {name: options[name] for name in ("against", "reference", "inputs", "tokenizer")}
        result = _compared(chosen, limits, progress, {"model": model, "runtimes": runtimes, "shapes": shapes, **given})
        result = _with_plan(result, options, progress)
    _write(result, options)
    emit(result, as_json, render)
    if result.outcome != "passed":
        kinds = {"not judged": NotJudgedError, "ended early": LimitError}
        raise kinds.get(result.outcome, NumbersDifferError)(result.summary, "docs/diffing.md says how to read a report")


def _compared(
    options: DiffOptions, limits: Limits | None, progress: Callable[[str], None], arguments: dict[str, Any]
) -> DiffResult:
    """Compare; with a cap on time or memory in a process of its own, which can be ended anywhere."""
    from ..diffing.api import diff, finished

    if limits is None:
        return diff(**arguments, options=options, progress=progress)
    from ..limited_process import run_limited

    job = "hsm_export.diffing.api:diff_within"
    written = (options.repro, options.polygraphy)
    result, early = run_limited(job, {**arguments, "options": options}, limits, progress, written)
    return finished(result, options, early) if early else result


def _with_plan(result: DiffResult, options: dict[str, Any], progress: Callable[[str], None]) -> DiffResult:
    """Search a precision plan for the source and write it, where one was asked for."""
    from ..errors import UsageError

    if not options["precision_plan"]:
        if options["target_error"] is not None:
            raise UsageError("--target-error belongs to a precision plan", "add --precision-plan FILE")
        return result
    if options["against"] is None or result.precision == "fp32":
        raise UsageError(
            "a precision plan needs an fp16 or bf16 file and its source", "export --precision fp16, add --against"
        )
    from ..diffing.precision.planning import plan_precision

    plan = plan_precision(
        options["against"], result.precision, options["target_error"], progress=lambda phase: progress(f"plan: {phase}")
    )
    plan.write(options["precision_plan"])
    return replace(result, notes=(*result.notes, f"{options['precision_plan']}: {plan.summary}"))


def _write(result: DiffResult, options: dict[str, Any]) -> None:
    """Write the reports that were asked for."""
    if options["html"]:
        from ..diffing.reporting.html import write_html

        write_html(result, options["html"])
    if options["markdown"]:
        from ..diffing.reporting.markdown import markdown
        from ..files import atomic_path

        with atomic_path(options["markdown"]) as scratch:
            Path(scratch).write_text(markdown(result), encoding="utf-8")
    if options["junit"]:
        from ..diffing.reporting.junit import write_junit

        write_junit(result, options["junit"])
    if options["node_data"]:
        from ..diffing.reporting.node_data import write_node_data

        write_node_data(result, options["node_data"])
    if options["save"]:
        from ..diffing.reporting.json_file import write_json

        write_json(result, options["save"])
