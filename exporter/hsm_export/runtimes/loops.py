"""Loops for onnx's Python evaluator, as ONNX defines them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference.op_run import OpRun

Array = NDArray[Any]


class _Repeated(OpRun):
    """What runs its body again and again, and keeps what the passes give."""

    body: Any  # an evaluator; `_run_body` runs it
    _run_body: Any

    def need_context(self) -> bool:
        """Ask for the values of the graphs around it, which the body may read."""
        return True

    def _pass(self, context: dict[str, Any] | None, inputs: Sequence[Any], **options: Any) -> list[Any]:
        """Run the body once; its inputs and weights hide values of the same name around it."""
        known = {name: value for name, value in (context or {}).items() if name not in self.body.rt_inits_}
        return list(self._run_body({**known, **dict(zip(self.body.input_names, inputs, strict=True))}, **options))

    def _gathered(self, place: int, parts: Sequence[Array], axis: int = 0, *, backwards: bool = False) -> Array:
        """Join what the passes gave for an output of the body along an axis that is new to them."""
        if parts:
            return np.stack(parts[::-1] if backwards else parts, axis)
        kind = self.body.output_types[place].tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        shape.insert(axis % (len(shape) + 1), 0)
        return np.empty(shape, tensor_dtype_to_np_dtype(kind.elem_type))


class Loop(_Repeated):
    """As ONNX defines it.

    The evaluator's own makes no pass without a condition, joins results of a pass along their own first axis, and
    forgets their shape without passes.
    """

    def _run(
        self, most: Array | None, condition: Any, *carried: Any, context: Any = None, body: Any = None, **options: Any
    ) -> tuple[Any, ...]:
        going = True if condition is None else bool(np.asarray(condition).reshape(-1)[0])
        values, count = list(carried), len(carried)
        parts: list[list[Any]] = [[] for _ in self.body.output_names[1 + count :]]
        last = math.inf if most is None else int(np.asarray(most).reshape(-1)[0])
        number = 0
        while going and number < last:
            given = [np.array(number, np.int64), np.array(going), *values]
            again, *results = self._pass(context, given, **options)
            going, values = bool(np.asarray(again).reshape(-1)[0]), results[:count]
            for kept, result in zip(parts, results[count:], strict=True):
                kept.append(result)
            number += 1
        return (*values, *(self._gathered(1 + count + place, kept) for place, kept in enumerate(parts)))


class Scan(_Repeated):
    """As ONNX defines it from version 9 on. The evaluator's own knows neither axes nor directions."""

    def _run(self, *args: Any, context: Any = None, body: Any = None, **options: Any) -> tuple[Any, ...]:
        count = int(options.pop("num_scan_inputs"))
        names = ("scan_input_axes", "scan_input_directions", "scan_output_axes", "scan_output_directions")
        axes, backwards, out_axes, out_backwards = (list(options.pop(name, None) or ()) for name in names)
        states, scanned = list(args[: len(args) - count]), []
        for place, array in enumerate(args[len(args) - count :]):
            moved = np.moveaxis(array, axes[place] if axes else 0, 0)
            scanned.append(moved[::-1] if backwards and backwards[place] else moved)
        parts: list[list[Any]] = [[] for _ in self.body.output_names[len(states) :]]
        for step in range(len(scanned[0])):
            results = self._pass(context, [*states, *(array[step] for array in scanned)], **options)
            states, made = results[: len(states)], results[len(states) :]
            for kept, result in zip(parts, made, strict=True):
                kept.append(result)
        joined = [
            self._gathered(
                len(states) + place,
                kept,
                out_axes[place] if out_axes else 0,
                backwards=bool(out_backwards and out_backwards[place]),
            )
            for place, kept in enumerate(parts)
        ]
        return (*states, *joined)
