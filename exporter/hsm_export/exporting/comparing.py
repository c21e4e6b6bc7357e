"""Compare a written file's numbers with those of the PyTorch module that it was made from.

The arbiter is the module in float64. The file's error against it may be twice the error of PyTorch itself in the
file's precision, plus 4 eps(T) max|reference|. Where experts are routed, all sides use the arbiter's choice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..dtypes import BY_PRECISION
from ..errors import HsmExportError, NumbersDifferError
from ..runtimes.evaluations import evaluated_as_body
from ..runtimes.reference_maths import reference_maths
from ..user_module import copied
from .result import CheckedOutput
from .source import Source, resized

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

# Allowed error in units of eps(T) max|reference| where PyTorch cannot show its own error in this precision.
_WITHOUT_NATIVE = 64.0
_FLOOR = 4.0


@dataclass(frozen=True)
class Reference:
    """What one run of the file must reproduce.

    Attributes:
        feeds: input name -> array.
        masks: for each expert operator, in call order, the arbiter's choice of experts.
        expected: each output in float64.
        native_errors: for each output PyTorch's own error in the file's precision, or None.
        specified: for each output which elements mean something, broadcastable to it; None for all.
    """

    feeds: dict[str, NDArray[Any]]
    masks: list[NDArray[np.bool_]]
    expected: list[NDArray[np.float64]]
    native_errors: list[float | None]
    specified: list[NDArray[np.bool_] | None]


def references(source: Source, precision: str, active: Sequence[int], *, evaluations: bool = False) -> list[Reference]:
    """Run the module in float64 and in the file's precision, with the source's runs or at the example shapes.

    Without runs of its own, a second one has other sizes in all dynamic dimensions; it is left out where the module
    refuses them.

    Args:
        source: the module and its example inputs.
        precision: "fp32", "fp16" or "bf16".
        active: the experts k that each expert operator of the file uses, in call order.
        evaluations: PyTorch has several ways to compute some of the file's operators; all of them count.
    """
    import torch

    examples = _examples(source)
    arbiter = _run_all(source, torch.float64, examples, active)
    own_type = BY_PRECISION[precision].torch
    ways = (False, True) if evaluations else (False,)
    natives = [_run_all(source, own_type, examples, active, arbiter, as_body=way) for way in ways]
    if arbiter[0] is None:
        arbiter = _run_all(source, torch.float32, examples, active)
        natives = []
    found = []
    for index, tensors in enumerate(examples):
        exact = arbiter[index]
        own = [run for native in natives if (run := native[index]) is not None]
        if exact is None:
            continue
        feeds = {spec.name: t.numpy() for spec, t in zip(source.arguments.inputs, tensors, strict=True)}
        specified = _specified(source, feeds, len(exact.outputs))
        expected = [_masked(_array(output), mask) for output, mask in zip(exact.outputs, specified, strict=True)]
        errors = [
            max((_max_error(_masked(_array(run.outputs[i]), specified[i]), reference) for run in own), default=None)
            for i, reference in enumerate(expected)
        ]
        found.append(Reference(feeds, [mask.numpy() for mask in exact.masks], expected, errors, specified))
    return found


def _examples(source: Source) -> list[list[Tensor]]:
    """Return the inputs of each run."""
    if source.runs is not None:
        return [list(run) for run in source.runs]
    examples = [spec.example for spec in source.arguments.inputs]
    other = resized(source.arguments, batch=1, length=-1)
    different = any(a.shape != b.shape for a, b in zip(examples, other, strict=True))
    return [examples, other] if different else [examples]


def _specified(source: Source, feeds: dict[str, NDArray[Any]], outputs: int) -> list[NDArray[np.bool_] | None]:
    """Return which elements of each output mean something: a decoding step's logits of valid tokens, and its state."""
    import numpy as np

    if source.state is None:
        return [None] * outputs
    lengths = feeds["lengths"][:, None]
    steps = 1 if source.state.last_logits else feeds["tokens"].shape[1]
    return [(np.arange(steps) < lengths)[:, :, None], *[None] * (outputs - 1)]


def _masked(values: NDArray[Any], specified: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Return the values with zeros where they mean nothing."""
    import numpy as np

    return values if specified is None else np.where(specified, values, 0)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.double().numpy()
    return array


@dataclass(frozen=True)
class _Run:
    outputs: list[Tensor]
    masks: list[Tensor]


def _run_all(
    source: Source,
    dtype: torch.dtype,
    examples: Sequence[Sequence[Tensor]],
    active: Sequence[int],
    choices: Sequence[_Run | None] | None = None,
    *,
    as_body: bool = False,
) -> list[_Run | None]:
    """Run the module in a type; None for a run that PyTorch refuses.

    Args:
        choices: runs whose choice of experts to take; None lets the module choose.
        as_body: compute the operators as their bodies do; False leaves PyTorch the choice.
    """

    runs: list[_Run | None] = []
    names = [spec.name for spec in source.arguments.inputs]
    module = copied(source.module, dtype)
    with evaluated_as_body(as_body):
        for index, tensors in enumerate(examples):
            chosen = None if choices is None else choices[index]
            if choices is not None and chosen is None:
                runs.append(None)
                continue
            try:
                with reference_maths(dtype), _routed(chosen) as calls:
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
    return runs


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


def _max_error(actual: NDArray[Any], reference: NDArray[np.float64]) -> float:
    import numpy as np

    return float(np.max(np.abs(actual.astype(np.float64) - reference), initial=0.0))


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
        rows = zip(outputs.items(), reference.specified, reference.expected, reference.native_errors, strict=True)
        checks += [
            _compare_output(name, array, specified, exact, own, precision, shapes)
            for (name, array), specified, exact, own in rows
        ]
    return tuple(checks)


def _compare_output(
    name: str,
    actual: NDArray[Any],
    specified: NDArray[np.bool_] | None,
    reference: NDArray[np.float64],
    native_error: float | None,
    precision: str,
    shapes: dict[str, tuple[int, ...]],
) -> CheckedOutput:
    import numpy as np
    import torch

    where = f"output {name!r} for {', '.join(f'{key} {list(shape)}' for key, shape in shapes.items())}"
    if actual.shape != reference.shape:
        raise NumbersDifferError(f"{where} has shape {list(actual.shape)}, PyTorch's has {list(reference.shape)}")
    actual = _masked(actual, specified)
    finite = np.isfinite(reference)
    if not np.array_equal(finite, np.isfinite(actual)):
        raise NumbersDifferError(f"{where} has a NaN or an infinity that PyTorch's does not have")
    reference, actual = np.where(finite, reference, 0), np.where(finite, actual, 0)
    scale = float(np.max(np.abs(reference), initial=0.0))
    eps = float(torch.finfo(BY_PRECISION[precision].torch).eps)
    error = _max_error(actual, reference)
    has_native = native_error is not None and np.isfinite(native_error)
    allowed = 2 * native_error + _FLOOR * eps * scale if has_native else _WITHOUT_NATIVE * eps * scale  # type: ignore[operator]
    if error > allowed:
        raise NumbersDifferError(
            f"{where} is off by {error:.3g} in ONNX Runtime, more than the {allowed:.3g} that {precision} explains",
            "try --precision fp32; if that fails too, please report it",
        )
    return CheckedOutput(name, shapes, error, error / scale if scale else 0.0, native_error, allowed)
