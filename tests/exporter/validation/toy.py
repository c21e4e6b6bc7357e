"""A decoder of two lines, with faults to plant: it remembers the last tokens and answers with what it read before."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from polygraphy.backend.base import BaseRunner

from hsm_export.formats.state_spec import StateSpec, TensorSpec
from hsm_export.runtimes.runtime import RunContext, Runtime

SHIFT, SPARE, VOCAB = 3, 2, 50


def toy_state(spare: int = SPARE, last_logits: bool = False) -> StateSpec:
    ring = TensorSpec("0.ring", "float32", ("batch", SHIFT + spare, 1), rollback="slots", spare=spare)
    return StateSpec((ring,), rollback=spare, last_logits=last_logits)


class ToyRunner(BaseRunner):  # type: ignore[misc]
    """logits[b,t] = (token, the token SHIFT before it); `fault` is what goes wrong."""

    def __init__(self, fault: str | None, state: StateSpec) -> None:
        super().__init__(name="toy")
        self._fault = fault
        self._state = state

    def get_input_metadata_impl(self) -> Any:
        raise AssertionError("nobody asks")

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, Any]:
        tokens, position, lengths = (feed_dict[name] for name in ("tokens", "position", "lengths"))
        ring = feed_dict["past.0.ring"].copy()
        slots = ring.shape[1]
        logits = np.full((*tokens.shape, 2), np.nan, np.float32)
        for b, first in enumerate(position):
            steps = tokens.shape[1] if self._fault == "writes padding" else lengths[b]
            for t in range(steps):
                p = int(first) + t
                before = ring[b, (p - SHIFT) % slots, 0] if p >= SHIFT else 0
                logits[b, t] = tokens[b, t], before
                ring[b, p % slots, 0] = tokens[b, t]
        if self._fault == "mixes rows":
            logits += ring.sum() * 1e-2
        if self._fault == "sees what was taken back":
            logits += ring.sum((1, 2), keepdims=True) * 1e-2
        if self._fault == "off by one":
            logits[:, :, 1] = np.roll(logits[:, :, 1], 1, axis=1)
        if self._state.last_logits:
            logits = logits[np.arange(len(lengths)), lengths - 1][:, None]
        self.inference_time = 0.0
        return OrderedDict(logits=logits, **{"present.0.ring": ring})


def toy_runtime(fault: str | None = None, state: StateSpec | None = None) -> Runtime:
    return Runtime("toy", "", lambda: None, lambda context: ToyRunner(fault, state or toy_state()))


def toy_context() -> RunContext:
    return RunContext(onnx.ModelProto(), Path(), "fp32")
