"""`hsm-export inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

from .console import emit, facts, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ..formats.engine_file import PluginUse
    from ..formats.profile import Profile
    from ..formats.quantisation_plan import QuantisationPlan
    from ..formats.tensor import Tensor
    from ..inspection import (
        CheckpointResult,
        ConfigResult,
        Cost,
        EngineResult,
        InspectResult,
        MixerRow,
        OnnxResult,
        StateTable,
    )

_FLAGS = ("strip_weights", "weight_streaming", "refit", "version_compatible", "experimental")
_HIDDEN = {"bias", "form", "rope_base", "rope_fraction", "activation", "width"}


@click.command("inspect")
@click.argument("file")
@click.option(
    "--length",
    "lengths",
    multiple=True,
    type=click.IntRange(min=1),
    help="Tokens of a sequence whose work is counted; repeatable. [default: 1, 128, 1024, 4096]",
)
@click.option(
    "--context",
    type=click.IntRange(min=0),
    default=0,
    help="Checkpoints and configurations: tokens before it that are in memory, as in Transformer-XL. [default: 0]",
)
@json_option
def command(file: str, lengths: tuple[int, ...], context: int, as_json: bool) -> None:
    """Show what an ONNX file, an engine, a checkpoint or a configuration holds.

    FILE is an .onnx file, an .engine or .plan file with the .json file that `build` wrote beside it, a checkpoint
    (.safetensors or folder), zoo:NAME, or a model's configuration (.json), of which no weights need exist. Work is
    counted for one sequence: a multiply-add is two operations, an hsm node counts as its fused kernel, and bytes are
    what the nodes read and write one by one. Of checkpoints and configurations the matrix products, the experts in
    use and the mixers' own work are counted, and the bytes are those of the weights.

    \b
    Examples:
      hsm-export inspect hsm-lm.onnx
      hsm-export inspect hsm-lm.engine
      hsm-export inspect zoo:hsm-lm --json
      hsm-export inspect model.json --length 256 --context 256
    """
    from ..inspection import inspect

    emit(inspect(file, lengths=lengths or None, context=context), as_json, _render)


def _render(result: InspectResult) -> RenderableType:
    from rich.console import Group

    from ..inspection import CheckpointResult, ConfigResult, EngineResult, OnnxResult

    if isinstance(result, OnnxResult):
        return Group(*_render_onnx(result))
    if isinstance(result, EngineResult):
        return Group(*_render_engine(result))
    if isinstance(result, ConfigResult):
        return Group(*_render_configuration(result))
    assert isinstance(result, CheckpointResult)
    return Group(*_render_checkpoint(result))


def _render_onnx(result: OnnxResult) -> Iterable[RenderableType]:
    rows = {
        "file": f"{result.path} ({_bytes(result.bytes)})",
        "producer": f"{result.producer}, ONNX IR {result.ir_version}",
        "opsets": ", ".join(f"{domain} {version}" for domain, version in result.opsets.items()),
        "precision": f"{result.precision}, quantised: {result.quantised}" if result.quantised else result.precision,
        "parameters": f"{result.parameters:,}",
        "weights": _sizes(result.weight_bytes),
        "external data": ", ".join(result.external_data),
        "task": result.metadata.get("task", ""),
        "checkpoint SHA-256": result.metadata.get("source_sha256", ""),
        "file SHA-256": result.sha256,
        "cannot be run": result.problem,
    }
    yield facts("ONNX model", rows)
    yield _borders(result.inputs, result.outputs)
    if result.state is not None:
        yield _state(result.state)
    if result.quantisation is not None:
        yield _forms(result.quantisation)
    if result.mixers:
        yield _mixers(result.mixers)
    yield _work(result.costs, result.uncounted)
    yield _operators(result)


def _forms(plan: QuantisationPlan) -> Table:
    """Return a row for each weight for which there was a choice: its form, and the bits that a number takes."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    title = f"quantised: {plan.bits:.2f} bits a weight, {plan.held_out.words(plan.budget.metric)} on held-out inputs"
    table = Table(title=f"{title} (budget {plan.budget.text})", title_justify="left", box=box.HEAVY_HEAD)
    for heading in ("weight", "form"):
        table.add_column(heading)
    for heading in ("bits", "numbers", "bytes"):
        table.add_column(heading, justify="right")
    for item in plan.weights:
        table.add_row(escape(item.name), item.form, f"{item.bits:.2f}", f"{item.elements:,}", f"{item.bytes:,}")
    return table


def _plugins(plugins: PluginUse | None) -> str:
    if plugins is None:
        return ""
    where = "in the engine" if plugins.embedded else f"needs {plugins.file} ({plugins.sha256})"
    return f"{len(plugins.layers)} layers, {where}"


def _render_engine(result: EngineResult) -> Iterable[RenderableType]:
    engine = result.engine
    rows = {
        "file": f"{result.path} ({_bytes(result.bytes)})",
        "state": "intact" if result.intact else "NOT the file that its side file describes: build it again",
        "target": f"{engine.target} {engine.target_version}",
        "architectures": ", ".join(engine.architectures) or "the GPU that it was built on",
        "precision": engine.precision,
        "flags": ", ".join(flag for flag in _FLAGS if getattr(engine, flag)),
        "layers before fusion": str(engine.layers),
        "plugins": _plugins(engine.plugins),
        "built on": engine.gpu or "",
        "built from": f"{engine.source.file} ({engine.source.sha256})",
        "task": engine.model.get("task", ""),
        "warnings": "\n".join(f"{warning.message} ({warning.count}x)" for warning in engine.warnings),
    }
    yield facts("engine", rows)
    yield _borders(engine.inputs, engine.outputs)
    if engine.profiles:
        yield _profiles(engine.profiles)
    if result.state is not None and result.onnx is None:
        yield _state(result.state)
    if result.onnx is not None:
        yield from _render_onnx(result.onnx)


def _render_checkpoint(result: CheckpointResult) -> Iterable[RenderableType]:
    rows = {
        "path": f"{result.path} ({_bytes(result.bytes)})",
        "task": str(result.config["task"]).replace("_", " "),
        "width": str(result.config["width"]),
        "parameters": f"{result.parameters:,}",
        "weights": _sizes(result.weight_bytes),
        "fingerprint": result.fingerprint,
        **{name.replace("_", " "): value for name, value in result.metadata.items()},
    }
    yield facts("checkpoint", rows)
    if result.mixers:
        yield _mixers(result.mixers)
    yield _work(result.costs, result.uncounted)


def _render_configuration(result: ConfigResult) -> Iterable[RenderableType]:
    floats = [f"{count:,} at T={length}" for length, count in result.memory_floats.items() if count]
    rows = {
        "path": str(result.path),
        "task": str(result.config["task"]).replace("_", " "),
        "width": str(result.config["width"]),
        "parameters": f"{result.parameters:,}",
        "context": f"{result.context} tokens in memory" if result.context else "",
        "memory floats of an attention layer": ", ".join(floats),
    }
    yield facts("configuration", rows)
    if result.mixers:
        yield _mixers(result.mixers)
    yield _work(result.costs, result.uncounted)


def _borders(inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> Table:
    from rich.table import Table

    table = Table("", "name", "type", "shape")
    for role, borders in (("input", inputs), ("output", outputs)):
        for border in borders:
            table.add_row(role, border.name, border.dtype, ", ".join(map(str, border.shape)))
    return table


def _state(state: StateTable) -> Table:
    """What a sequence carries from call to call: bytes are exact, a formula in its length."""
    from rich.table import Table

    table = Table("tensor", "type", "shape", "rollback", title="state", title_justify="left")
    for heading in ("spare", "bytes", "bytes/token"):
        table.add_column(heading, justify="right")
    for row in state.tensors:
        shape = ", ".join(map(str, row.shape))
        numbers = (row.spare, row.constant_bytes, row.bytes_per_token)
        table.add_row(
            row.name, row.dtype, shape, row.rollback, *(f"{number:,}" if number else "" for number in numbers)
        )
    growing = f" + {state.bytes_per_token:,} a token" if state.bytes_per_token else ", whatever its length"
    table.caption = f"bytes of one sequence: {state.constant_bytes:,}{growing}"
    return table


def _profiles(profiles: Iterable[Profile]) -> Table:
    from rich.table import Table

    table = Table("profile", "dimension", "min", "opt", "max")
    for index, profile in enumerate(profiles):
        for name, sizes in profile.items():
            table.add_row(str(index), name, str(sizes.min), str(sizes.opt), str(sizes.max))
    return table


def _mixers(mixers: Iterable[MixerRow]) -> Table:
    from rich.table import Table

    rows = list(mixers)
    shown = _first_and_last(rows[0].costs)
    lengths = ["flops" if cost.length is None else f"flops/token\nT={cost.length}" for cost in shown]
    table = Table(title="mixers and feed-forward networks", title_justify="left")
    for heading in ("module", "kind", "operators"):
        table.add_column(heading, no_wrap=True)
    table.add_column("details")
    for heading in ("parameters", *lengths):
        table.add_column(heading, justify="right")
    for row in rows:
        flops = [_count(cost.flops_per_token) for cost in _first_and_last(row.costs)]
        table.add_row(row.name, row.kind, _counted(row.operators), _details(row), f"{row.parameters:,}", *flops)
    return table


def _first_and_last(costs: tuple[Cost, ...]) -> tuple[Cost, ...]:
    return costs if len(costs) < 2 else (costs[0], costs[-1])


def _counted(names: Iterable[str]) -> str:
    counts = Counter(names)
    return "\n".join(name if count == 1 else f"{name} x{count}" for name, count in counts.items())


def _details(row: MixerRow) -> str:
    """The details that tell one layer from another: switched-off options and numerical constants stay in the JSON."""
    shown = []
    for name, value in row.details.items():
        if name in _HIDDEN or value is False:
            continue
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        shown.append(name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {text}")
    return ", ".join(shown)


def _work(costs: Iterable[Cost], uncounted: Mapping[str, int]) -> Table:
    from rich.table import Table

    table = Table("tokens T", "flops", "flops/token", "bytes", "bytes/token", title="one run of one sequence")
    table.title_justify = "left"
    for cost in costs:
        table.add_row(
            "fixed" if cost.length is None else str(cost.length),
            _count(cost.flops),
            _count(cost.flops_per_token),
            _bytes(cost.bytes),
            _bytes(cost.bytes_per_token),
        )
    if uncounted:
        missing = ", ".join(f"{count} {operator}" for operator, count in uncounted.items())
        table.caption = f"not counted: {missing}"
    return table


def _operators(result: OnnxResult) -> Table:
    from rich.table import Table

    bodies = {f"{body.domain}::{body.name}": body.nodes for body in result.functions}
    table = Table("operator", "nodes", "portable body", "flops per token")
    for operator, count in result.operators.items():
        body = f"{bodies[operator]} nodes" if operator in bodies else ""
        table.add_row(operator, str(count), body, result.formulas.get(operator.removeprefix("hsm::"), ""))
    if result.formulas:
        table.caption = "D width, H heads, d and f head width, k active experts, T tokens"
    return table


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{_bytes(size)} {dtype}" for dtype, size in sizes.items())


def _count(number: float) -> str:
    return _scaled(number, 1000, ("", " k", " M", " G", " T", " P"))


def _bytes(number: float) -> str:
    return _scaled(number, 1024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if abs(number) < base:
            return f"{number:.0f}{unit}" if unit == units[0] or number >= 100 else f"{number:.1f}{unit}"
        number /= base
    return f"{number:.1f}{units[-1]}"
