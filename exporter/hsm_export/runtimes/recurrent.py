"""ONNX's recurrent operators for onnx's Python evaluator, whose own take every row for as long as the longest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_gru, op_lstm, op_rnn

Array = NDArray[Any]


class _WithLengths(OpRun):
    """Computes rows of equal lengths together, by the evaluator's own operator."""

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Array, ...]:
        own_run: Any = super()._run  # type: ignore[safe-super]  # of the evaluator's class
        given: list[Any] = [*inputs, *[None] * (5 - len(inputs))]
        x, w, r, b, lengths, *states = given
        count = 2 if isinstance(self, op_lstm.LSTM) else 1
        self._check(x, w, r, states[:count], bool(attributes.get("layout")))
        if lengths is None:
            found: tuple[Array, ...] = own_run(*inputs, **attributes)
            return found
        if attributes.get("layout"):
            raise NotImplementedError("rows of several lengths in layout 1")
        time, batch = x.shape[:2]
        directions, size = w.shape[0], r.shape[-1]
        starts, peepholes = states[:count], states[count:]
        starts = [*starts, *[None] * (count - len(starts))]
        zeros = np.zeros((directions, batch, size), x.dtype)
        ends = [np.array(zeros if state is None else state) for state in starts]
        y = np.zeros((time, directions, batch, size), x.dtype)
        for length in np.unique(lengths[lengths > 0]):
            rows = lengths == length
            own = [None if state is None else state[:, rows] for state in starts]
            part, *final = own_run(x[:length][:, rows], w, r, b, None, *own, *peepholes, **attributes)
            y[:length, :, rows] = part
            for end, value in zip(ends, final, strict=False):
                end[:, rows] = value
        return (y, *ends)[: max(1, len(self.onnx_node.output))]

    def _check(self, x: Array, w: Array, r: Array, states: list[Any], rows_first: bool) -> None:
        """Refuse states of other sizes, which the evaluator would repeat for every row."""
        directions, size = w.shape[0], r.shape[-1]
        right = (x.shape[0], directions, size) if rows_first else (directions, x.shape[1], size)
        for state in states:
            if state is not None and state.shape != right:
                raise ValueError(f"{self.onnx_node.name} starts from a state of the shape {state.shape}, not {right}")


class GRU(_WithLengths, op_gru.GRU):
    """As ONNX defines it."""


class LSTM(_WithLengths, op_lstm.LSTM):
    """As ONNX defines it."""


class RNN(_WithLengths, op_rnn.RNN_14):
    """As ONNX defines it."""

    def choose_act(self, name: str, alpha: float | None, beta: float | None) -> Any:
        """Return an activation; the evaluator lacks the rectifier."""
        if name == "Relu":
            return lambda x: np.maximum(x, 0)
        return super().choose_act(name, alpha, beta)  # type: ignore[no-untyped-call]
