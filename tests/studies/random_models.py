"""Random small models of every kind as files, with random inputs: what the study of thresholds is about."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from tests.exporter.validation.families import FAMILIES, random_config
from tests.studies.plain_graphs import write_plain

from hsm_export import export
from hsm_export.diffing.inputs.decoding import decoding_cases
from hsm_export.diffing.layers.tapping import run_once
from hsm_export.exporting import assembling
from hsm_export.exporting.assembling import FloatGraph
from hsm_export.onnx_model.model_file import open_model
from hsm_export.runtimes import get
from hsm_export.runtimes.runtime import RunContext
from hsm_export.validation.cases import _case, sizes_of
from hsm_models.checkpoint import build_model, save_checkpoint

Array = NDArray[Any]

PRECISIONS = ("fp32", "fp16", "bf16")
# "decode": a language model's decoding step; "plain": no node of ours at all.
KINDS = (*FAMILIES, "decode", "plain")
_DECODED = ("hsm", "hybrid", "causal_taylor_shift", "switch_head")
# Models of one architecture that follow each other: three sets of weights and inputs in three precisions each.
PER_ARCHITECTURE = 9
_LONGEST = 24


@dataclass(frozen=True)
class Drawn:
    """A model on disk.

    Attributes:
        kind: which of KINDS.
        precision: of the file.
        path: the ONNX file.
        source: its checkpoint; None where the file is to be compared without one.
        feed: inputs by name.
    """

    kind: str
    precision: str
    path: Path
    source: Path | None
    feed: dict[str, Array]


class Models:
    """Draws models by number; those of one architecture share a trace, which takes most of the time of an export.

    Args:
        folder: where files go.
        seed: of everything.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._folder = folder
        self._seed = seed
        self._traced: tuple[int, FloatGraph] | None = None

    def draw(self, number: int) -> Drawn:
        """Write the model of that number; files of earlier ones are overwritten."""
        architecture, variant = divmod(number, PER_ARCHITECTURE)
        kind, precision = KINDS[architecture % len(KINDS)], PRECISIONS[variant % len(PRECISIONS)]
        rng = random.Random(f"{self._seed} {number}")
        batch, length = rng.choice([1, 2, 3]), rng.randint(1, _LONGEST)
        path = self._folder / "model.onnx"
        if kind == "plain":
            feed = write_plain(path, precision, batch, length, self._seed * 100_003 + number)
            return Drawn(kind, precision, path, None, feed)
        config = random.Random(f"{self._seed} architecture {architecture}")
        family = config.choice(_DECODED) if kind == "decode" else kind
        torch.manual_seed(self._seed * 100_003 + number)
        model = build_model(random_config(family, config))
        checkpoint = self._folder / "model.safetensors"
        save_checkpoint(model, checkpoint)
        with self._shared_trace(architecture):
            export(checkpoint, output=path, precision=precision, decode=kind == "decode")
        feed = _feed(path, rng.randrange(1 << 30), batch, length, kind == "decode")
        return Drawn(kind, precision, path, checkpoint if number % 2 else None, feed)

    @contextlib.contextmanager
    def _shared_trace(self, architecture: int) -> Iterator[None]:
        """Let exports of one architecture trace once: the others put their weights into a copy of the graph."""
        original = assembling.float_graph

        def float_graph(source: Any) -> FloatGraph:
            if self._traced is None or self._traced[0] != architecture:
                self._traced = architecture, original(source)
            first = self._traced[1]
            graph = replace(first, model=first.model.clone())
            _own_types(graph.model)
            weights = source.module.state_dict(keep_vars=True)
            for name, value in graph.model.graph.initializers.items():
                if name in graph.parameters:
                    value.const_value = ir.tensor(weights[name].detach().clone(), name=name)
            return graph

        with mock.patch.object(assembling, "float_graph", float_graph):
            yield


def _own_types(model: ir.Model) -> None:
    """Give a copy's values types of their own: converting to a precision changes them in place."""
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for value in (*values, *(value for node in model.graph.all_nodes() for value in node.outputs)):
        value.type = copy.copy(value.type)


def _feed(path: Path, seed: int, batch: int, length: int, decode: bool) -> dict[str, Array]:
    file = open_model(path)
    if decode:
        context = RunContext(file.model, path.parent, file.precision)
        cases = decoding_cases(file, lambda feed: run_once(get("onnx64"), context, feed), [(batch, max(4, length))])
        return cases[seed % len(cases)].feed
    longest = int(file.config.get("max_length") or length)
    sizes = sizes_of(file, (batch, min(length, longest)))
    return _case(file, np.random.default_rng(seed), sizes, "random").feed
