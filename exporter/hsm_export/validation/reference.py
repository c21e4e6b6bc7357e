"""The bar that every runtime has to meet in each of a validation's cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.bar import Bar, Evidence
from ..comparison.bar import bars as derive
from ..onnx_model.model_file import ModelFile
from ..runtimes.routing import LOGITS_SUFFIX
from .cases import Case

Array = NDArray[Any]


def bars(
    file: ModelFile,
    cases: Sequence[Case],
    arbiter: Sequence[Mapping[str, Array]],
    natives: Sequence[Sequence[Mapping[str, Array]]],
    exact: Sequence[Mapping[str, Array]] | None = None,
    rounded: Sequence[Sequence[Mapping[str, Array]]] = (),
    native_by: str = "",
) -> list[dict[str, Bar]]:
    """Return, per case, the bar of every output.

    Args:
        file: the model, for the names of dynamic dimensions.
        cases: the inputs.
        arbiter: the arbiter's outputs per case.
        natives: the baseline's outputs per case, with the arbiter's experts prescribed; one sequence for each way to
            compute them.
        exact: float64 outputs per case where the arbiter's are none.
        rounded: float64 outputs per case, every tensor rounded at random; one sequence for each draw.
        native_by: the baseline's name.

    Raises:
        ValueError: the evaluations give different shapes.
    """
    evidence = [
        Evidence(
            arbiter=arbiter[index],
            natives=[native[index] for native in natives],
            rounded=[draw[index] for draw in rounded],
            exact=None if exact is None else exact[index],
            specified={name: _specified(file, case, name, np.shape(array)) for name, array in arbiter[index].items()},
            ordinary=case.ordinary,
            finite=all(
                array.size > 0 and (array.dtype.kind not in "fc" or bool(np.isfinite(array).all()))
                for array in case.feed.values()
            ),
        )
        for index, case in enumerate(cases)
    ]
    return derive(file.precision, evidence, native_by, LOGITS_SUFFIX)


def _specified(file: ModelFile, case: Case, output: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which elements of an output mean something: not those of tokens beyond a row's length."""
    specified = np.ones(shape, dtype=bool)
    counting = file.lengths
    if counting is None or len(shape) < 2 or not _per_token(file, output, counting.counts):
        return specified
    lengths = case.feed[counting.name]
    valid = np.arange(shape[1])[None, :] < lengths[:, None]
    return specified & valid.reshape(valid.shape + (1,) * (len(shape) - 2))


def _per_token(file: ModelFile, output: str, counted: str | int | None) -> bool:
    """Say whether an output's second dimension is the sequence that the lengths input counts."""
    inputs = [spec for spec in file.inputs if not spec.name.startswith("past.")]
    tokens = {spec.shape[1] for spec in inputs if len(spec.shape) > 1 and isinstance(spec.shape[1], str)}
    for value in file.model.graph.output:
        dims = value.type.tensor_type.shape.dim
        if value.name == output and len(dims) > 1:
            size = dims[1].dim_param or dims[1].dim_value
            return size in tokens if counted is None else size == counted
    return False
