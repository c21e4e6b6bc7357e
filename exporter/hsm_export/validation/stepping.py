"""Make any runtime decode: a runner that feeds a decoding file chunk by chunk and puts the results together again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from ..formats.state_spec import State, StateSpec
from ..runtimes.routing import RoutedNode
from ..runtimes.runtime import RunContext, Runtime

Array = NDArray[Any]


def stepping(runtime: Runtime, state: StateSpec, *, whole: bool = False) -> Runtime:
    """Return the runtime as one that takes whole sequences and how to cut them.

    Its inputs are `tokens` (B,L), `lengths` (B,) valid tokens of each row, `chunks` (N,B) tokens of each row in each
    call, and the masks of expert operators (B,L,H,E). Its outputs are `logits` (B,L,V), `present.*` after the last
    call, and the logits of expert operators (B,L,H,E); what no call computes is zero.

    Args:
        runtime: what runs the calls.
        state: the file's state.
        whole: make one call of everything, whatever `chunks` says.
    """

    def runner(context: RunContext) -> SteppingRunner:
        return SteppingRunner(runtime.runner(context), state, context.routed, runtime.name, whole)

    return replace(runtime, runner=runner)


@dataclass(frozen=True)
class Call:
    """One call of a decoding file.

    Attributes:
        tokens: (B,T) int64, right-padded.
        position, lengths: (B,) int64.
        source: (B,T) index of each token in its sequence; padding repeats the last valid one.
        valid: (B,T) bool.
    """

    tokens: Array
    position: Array
    lengths: Array
    source: Array
    valid: NDArray[np.bool_]


def calls(tokens: Array, chunks: Array) -> Iterator[Call]:
    """Cut sequences (B,L) into calls; `chunks` (N,B) says how many tokens each row takes in each."""
    position = np.zeros(len(tokens), np.int64)
    for lengths in chunks:
        steps = np.arange(max(1, int(lengths.max())))
        valid = steps < lengths[:, None]
        source = (position[:, None] + np.minimum(steps, np.maximum(lengths - 1, 0)[:, None])).clip(
            0, tokens.shape[1] - 1
        )
        yield Call(np.take_along_axis(tokens, source, 1), position.copy(), lengths.copy(), source, valid)
        position += lengths


class SteppingRunner(BaseRunner):  # type: ignore[misc]
    """Decodes with another runner; see `stepping`.

    Args:
        inner: the runner that makes the calls.
        state: the file's state.
        routed: the file's expert operators.
        name: the runner's name in Polygraphy's results.
        whole: make one call of everything.
    """

    def __init__(
        self, inner: Any, state: StateSpec, routed: tuple[RoutedNode, ...], name: str, whole: bool = False
    ) -> None:
        super().__init__(name=name)
        self._inner = inner
        self._state = state
        self._routed = routed
        self._whole = whole

    def activate_impl(self) -> None:
        self._inner.activate()

    def deactivate_impl(self) -> None:
        self._inner.deactivate()

    def get_input_metadata_impl(self) -> TensorMetadata:
        metadata = TensorMetadata()
        for name, rank in (("tokens", 2), ("lengths", 1), ("chunks", 2)):
            metadata.add(name, dtype=np.int64, shape=[None] * rank)
        for node in self._routed:
            metadata.add(node.mask, dtype=np.bool_, shape=[None] * node.free_mask().ndim)
        return metadata

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        feed = {name: np.asarray(array) for name, array in feed_dict.items()}
        tokens, chunks = feed["tokens"], feed["chunks"]
        whole = feed["lengths"][None]
        state = empty_state(self._state, *tokens.shape)
        results: OrderedDict[str, Any] = OrderedDict()
        seconds = 0.0
        for call in calls(tokens, whole if self._whole else chunks):
            outputs, state = self.call(call, state, self._masks(feed, call))
            seconds += self._inner.inference_time
            for name in ("logits", *(node.logits for node in self._routed)):
                last = name == "logits" and self._state.last_logits
                _collect(results, name, outputs[name], call, tokens.shape[1], last)
        for tensor in self._state.tensors:
            results[tensor.present] = state[tensor.past]
        self.inference_time = seconds
        return results

    def call(self, call: Call, state: State, masks: dict[str, Any] | None = None) -> tuple[dict[str, Any], State]:
        """Make one call; return its outputs and the new state."""
        if masks is None:
            masks = {node.mask: node.free_mask() for node in self._routed}
        ids = {"tokens": call.tokens, "position": call.position, "lengths": call.lengths}
        outputs = self._inner.infer({**ids, **state, **masks}, check_inputs=False)
        arrays = {name: np.array(array) for name, array in outputs.items()}  # the runner may reuse its own
        return arrays, {tensor.past: arrays[tensor.present] for tensor in self._state.tensors}

    def _masks(self, feed: dict[str, Array], call: Call) -> dict[str, Any]:
        """Return the rows of each mask that belong to the call's tokens; one that restricts nothing stays as it is."""
        masks = {}
        for node in self._routed:
            mask = feed[node.mask]
            free = mask.shape[1] == 1 and mask.shape[0] == 1 and bool(mask.all())
            masks[node.mask] = mask if free else _rows(mask, call.source)
        return masks


def _rows(mask: Array, source: Array) -> Array:
    """Return the tokens `source` (B,T) of each row of a mask (B,T,…), which has an axis of heads or none."""
    return np.asarray(np.take_along_axis(mask, source.reshape(*source.shape, *[1] * (mask.ndim - 2)), 1))


def empty_state(state: StateSpec, batch: int, length: int) -> State:
    """Return the state before the first token, in types that every runner takes: NumPy's own."""
    arrays = state.allocate(batch, None if state.capacity else length)
    return {name: array.astype(np.float32) if array.dtype.kind == "V" else array for name, array in arrays.items()}


def _collect(results: OrderedDict[str, Any], name: str, values: Array, call: Call, length: int, last: bool) -> None:
    """Put what a call computed (B,T,...) where it belongs in the sequence (B,L,...)."""
    if name not in results:
        results[name] = np.zeros((len(values), length, *values.shape[2:]), values.dtype)
    if last:
        rows = np.flatnonzero(call.lengths)
        results[name][rows, (call.position + call.lengths - 1)[rows]] = values[rows, 0]
    else:
        rows, steps = np.nonzero(call.valid)
        results[name][rows, call.source[rows, steps]] = values[rows, steps]
