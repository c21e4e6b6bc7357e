"""Compare a written file's numbers with those of the PyTorch module that it was made from.

The arbiter is the module in float64, and the thresholds are those of `comparison`, as in `validate`. Where experts are
routed, all sides use the arbiter's choice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..comparison.bar import Bar, Evidence, bars
from ..comparison.error import distance, largest
from ..dtypes import BY_PRECISION
from ..errors import BadInputError, HsmExportError, NumbersDifferError
from ..formats.tensor import InputSpec
from ..runtimes.evaluations import evaluated_as_body
from ..runtimes.randomness import SAME, watch_random
from ..runtimes.reference_maths import reference_maths
from ..runtimes.rounding import draws, round_parameters, rounded_in_torch
from ..runtimes.summation import orders, summed_in
from ..torch_model.user_module import copied
from .dimensions import other_sizes, resized, sizes_of
from .result import CheckedOutput
from .source import Source

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn


@dataclass(frozen=True)
class Reference:
    """What one run of the file must reproduce.

    Attributes:
        feeds: input name -> array.
        masks: for each expert operator, in call order, the arbiter's choice of experts.
        bars: what each output must be.
        native: whether PyTorch runs the module in the file's precision.
    """

    feeds: dict[str, NDArray[Any]]
    masks: list[NDArray[np.bool_]]
    bars: list[Bar]
    native: bool


def references(
    source: Source,
    precision: str,
    active: Sequence[int],
    inputs: Sequence[InputSpec] = (),
    *,
    evaluations: bool = False,
    bounded: bool = True,
    many: bool = False,
) -> list[Reference]:
    """Run the module in float64 and in the file's precision, with the source's runs or at the example shapes.

    Without runs of its own, a second one has another size in every dynamic dimension, no two of them equal. Where the
    module refuses that, each dimension changes by itself; sizes that it refuses are left out.

    Args:
        source: the module and its example inputs.
        precision: "fp32", "fp16" or "bf16".
        active: the experts k that each expert operator of the file uses, in call order.
        inputs: the graph's inputs; the source's own runs need none.
        evaluations: PyTorch has several ways to compute some of the file's operators; all of them count.
        bounded: find out how large the file's errors may be; without that, only the right outputs count.
        many: measure the condition by more random roundings, where a few condemn the file.

    Raises:
        BadInputError: the module draws random numbers.
        HsmExportError: the module chooses experts another number of times than the graph.
    """
    import torch

    examples, alone = _examples(source, inputs)
    exact_type = torch.float64
    arbiter = _run_all(source, exact_type, examples, active)
    if arbiter[0] is None:
        exact_type = torch.float32
        arbiter = _run_all(source, exact_type, examples, active)
    if alone and arbiter[0] is not None and arbiter[1] is None:
        examples = [examples[0], *alone]
        arbiter = _run_all(source, exact_type, examples, active)
    natives: list[list[_Run | None]] = []
    moved: list[list[_Run | None]] = []
    if bounded and arbiter[0] is not None:
        _refuse_random(source, exact_type, examples, active, arbiter[0])
        own_type = BY_PRECISION[precision].torch
        natives_by, rounded_by = _ways(source, precision, evaluations, many)
        if exact_type is torch.float64:
            natives = [_run_all(source, own_type, examples, active, arbiter, way) for way in natives_by]
        moved = [_run_all(source, exact_type, examples, active, arbiter, way) for way in rounded_by]
    found, evidence = [], []
    for index, tensors in enumerate(examples):
        exact = arbiter[index]
        if exact is None:
            continue
        feeds = {spec.name: t.numpy() for spec, t in zip(source.arguments.inputs, tensors, strict=True)}
        own, rounded = _arrays(natives, index), _arrays(moved, index)
        evidence.append(Evidence(exact.arrays, own, rounded, specified=_specified(source, feeds)))
        found.append((feeds, [mask.numpy() for mask in exact.masks], bool(own)))
    limits = bars(precision, evidence, "torch")
    return [
        Reference(feeds, masks, list(of_case.values()), native)
        for (feeds, masks, native), of_case in zip(found, limits, strict=True)
    ]


def _ways(source: Source, precision: str, evaluations: bool, many: bool) -> tuple[list[_Way], list[_Way]]:
    """Return the ways to run PyTorch in the file's precision, and in float64 with every result rounded at random."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in source.module.state_dict().values())
    bodies = (False, True) if evaluations else (False,)
    return (
        [_Way(as_body=as_body, summation=order) for as_body in bodies for order in orders(size)],
        [_Way(rounding=draw, precision=precision) for draw in draws(size, many)],
    )


def _arrays(runs: Sequence[Sequence[_Run | None]], index: int) -> list[dict[str, NDArray[Any]]]:
    """Return the outputs of one case in each way in which PyTorch ran it."""
    return [run.arrays for way in runs if (run := way[index]) is not None]


def _refuse_random(
    source: Source, dtype: torch.dtype, examples: Sequence[Sequence[Tensor]], active: Sequence[int], first: _Run
) -> None:
    """Refuse a module that gives two results for the same inputs.

    Raises:
        BadInputError: it does; the message names the line that draws random numbers, if one does.
    """
    with watch_random() as lines:
        again = _run_all(source, dtype, examples[:1], active)[0]
    if again is None:
        return
    for name, array in first.arrays.items():
        if not distance(again.arrays[name], array) <= SAME * largest(array):
            why = f"forward draws random numbers at {lines[0]}" if lines else "forward keeps something between calls"
            raise BadInputError(
                f"{source.name} gives two results for the same inputs: {why}",
                "pass the random numbers as an input; nn.Dropout, unlike functional.dropout, stops in eval mode",
            )


def _examples(source: Source, inputs: Sequence[InputSpec]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Return the inputs of each run, and those that stand for the second where the module refuses it."""
    if source.runs is not None:
        return [list(run) for run in source.runs], []
    arguments = source.arguments.inputs
    examples = [spec.example for spec in arguments]
    others = other_sizes(sizes_of(inputs))
    if not others:
        return [examples], []
    alone = [resized(arguments, inputs, {name: size}) for name, size in others.items()]
    return [examples, resized(arguments, inputs, others)], alone


def _specified(source: Source, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.bool_]]:
    """Return which elements of an output mean something: of a decoding step's logits those of valid tokens."""
    import numpy as np

    if source.state is None:
        return {}
    steps = 1 if source.state.last_logits else feeds["tokens"].shape[1]
    return {"0": (np.arange(steps) < feeds["lengths"][:, None])[:, :, None]}


@dataclass(frozen=True)
class _Way:
    """How a run computes; see `RunContext`, whose fields these are."""

    as_body: bool = False
    summation: int = 0
    rounding: int = 0
    precision: str = "fp32"


@dataclass(frozen=True)
class _Run:
    outputs: list[Tensor]
    masks: list[Tensor]

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The outputs by their positions; bfloat16 ones as float32."""
        import torch

        plain = (item.float() if item.dtype is torch.bfloat16 else item for item in self.outputs)
        return {str(index): item.numpy() for index, item in enumerate(plain)}


def _run_all(
    source: Source,
    dtype: torch.dtype,
    examples: Sequence[Sequence[Tensor]],
    active: Sequence[int],
    choices: Sequence[_Run | None] | None = None,
    way: _Way | None = None,
) -> list[_Run | None]:
    """Run the module in a type; None for a run that PyTorch refuses.

    Args:
        choices: runs whose choice of experts to take; None lets the module choose.
        way: how to compute; None is PyTorch's own.
    """

    runs: list[_Run | None] = []
    way = way or _Way()
    names = [spec.name for spec in source.arguments.inputs]
    module = copied(source.module, dtype)
    round_parameters(module, way.precision, way.rounding)
    before = _states(module)
    with evaluated_as_body(way.as_body), summed_in(way.summation):
        for index, tensors in enumerate(examples):
            chosen = None if choices is None else choices[index]
            if choices is not None and chosen is None:
                runs.append(None)
                continue
            try:
                rounding = rounded_in_torch(way.precision, way.rounding)
                with reference_maths(dtype), rounding, _routed(chosen) as calls:
                    outputs = source.arguments.call.run(module, dict(zip(names, tensors, strict=True)), dtype)
            except Exception:  # a user's module may mix types or refuse sizes; ours never do
                runs.append(None)
                continue
            if len(calls) != len(active):
                raise HsmExportError(
                    f"{source.name} chooses experts {len(calls)} times, but its graph does so {len(active)} times",
                    "does forward call an expert operator whose result it does not use?",
                )
            masks = [_choice(logits, k) for logits, k in zip(calls, active, strict=True)]
            runs.append(_Run(outputs, masks))
    changed = [name for name, state in _states(module).items() if state != before.get(name)]
    if changed and choices is None:
        _refuse_memory(source, module, dtype, changed, examples, runs)
    return runs


def _states(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Return what changes when forward writes a parameter or buffer or puts another tensor in its place."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return {name: (id(value), value._version) for name, value in tensors}


def _refuse_memory(
    source: Source,
    module: nn.Module,
    dtype: torch.dtype,
    changed: Sequence[str],
    examples: Sequence[Sequence[Tensor]],
    runs: Sequence[_Run | None],
) -> None:
    """Refuse a module that writes weights, or whose earlier calls enter its results; a counter is no such thing."""
    names = [spec.name for spec in source.arguments.inputs]
    inputs, run = next(((i, r) for i, r in zip(examples, runs, strict=True) if r is not None), ((), None))
    weights = {name for name, _ in module.named_parameters()}.intersection(changed)
    if run is not None and not weights:
        with reference_maths(dtype), _routed(run):
            again = source.arguments.call.run(module, dict(zip(names, inputs, strict=True)), dtype)
        if all(bool(((a == b) | (a != a) & (b != b)).all()) for a, b in zip(again, run.outputs, strict=True)):
            return
    explicit = "take it as an argument and return what it becomes"
    if not weights:
        listed = ", ".join(f'"{name}"' for name in changed)
        explicit = f"hsm_export.ExplicitState(module, [{listed}]) makes inputs and outputs of them (docs/exporting.md)"
    raise BadInputError(
        f"{source.name}: forward writes {', '.join(sorted(weights) or changed)}, which later calls compute with; "
        "a file remembers nothing",
        f"{explicit}; a language model decodes with a state (docs/decoding.md)",
    )


@contextlib.contextmanager
def _routed(chosen: _Run | None) -> Iterator[list[Tensor]]:
    """Collect the routing logits of a run, and force the experts that another run chose."""
    from hsm_operators.routing import force_routing, record_routing

    with record_routing() as calls:
        if chosen is None or not chosen.masks:
            yield calls
        else:
            with force_routing(chosen.masks):
                yield calls


def _choice(logits: Tensor, k: int) -> Tensor:
    """Return the mask of the k largest logits, ties to the lower index."""
    import torch

    order = torch.sort(logits, dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros(logits.shape, dtype=torch.bool).scatter(-1, order, True)


def compare(
    results: Sequence[dict[str, NDArray[Any]]], expected: Sequence[Reference], precision: str
) -> tuple[CheckedOutput, ...]:
    """Compare each run's outputs with the reference.

    Raises:
        NumbersDifferError: an error beyond what is allowed, a NaN or infinity of the file's own, or a wrong shape.
    """
    checks = []
    for outputs, reference in zip(results, expected, strict=True):
        shapes = {name: array.shape for name, array in reference.feeds.items()}
        for (name, array), bar in zip(outputs.items(), reference.bars, strict=True):
            checks.append(_compare_output(name, array, bar, precision, shapes, reference.native))
    return tuple(checks)


def _compare_output(
    name: str, actual: NDArray[Any], bar: Bar, precision: str, shapes: dict[str, tuple[int, ...]], native: bool
) -> CheckedOutput:
    where = f"output {name!r} for {', '.join(f'{key} {list(shape)}' for key, shape in shapes.items())}"
    found = bar.judge(actual, precision=precision)
    if bar.problem:
        raise NumbersDifferError(f"{where} {bar.problem}", "look at the weights, or at the example inputs")
    if found.reason:
        raise NumbersDifferError(
            f"{where} is off {found.how} in ONNX Runtime",
            "please report it" if precision == "fp32" else "try --precision fp32; if that fails too, please report it",
        )
    error, scale = found.errors.max_abs, found.errors.scale
    native_error = bar.native_error if native else None
    return CheckedOutput(name, shapes, error, error / scale if scale else 0.0, native_error, bar.threshold.value)
