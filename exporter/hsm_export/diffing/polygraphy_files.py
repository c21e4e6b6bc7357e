"""A diff's inputs and outputs as files that Polygraphy reads: a folder a runtime, one file a case."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInputError
from ..files import atomic_directory, file_name, replace_directory

Array = NDArray[Any]

INPUTS, OUTPUTS, ACCURACY = "inputs", "outputs", "accuracy"


class PolygraphyFolder:
    """A folder that is being written; no more than one case of two runtimes is held in memory.

    It holds `inputs/0000000000.json`, `outputs/RUNTIME/0000000000.json` and `accuracy/RUNTIME.json`: what
    `polygraphy run` takes as `--load-inputs` and `--load-outputs`, `polygraphy inspect data` shows, and
    `polygraphy check accuracy` judges with other thresholds.

    Args:
        path: the folder, which exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: dict[str, int] = {}

    def add_inputs(self, feed: Mapping[str, Array]) -> None:
        """Write the inputs of the next case."""
        from polygraphy.json import save_json

        save_json([{name: _plain(array) for name, array in feed.items()}], str(self._next(INPUTS)))

    def add_outputs(self, runtime: str, outputs: Mapping[str, Array], seconds: float = 0.0) -> None:
        """Write what a runtime made of the next of its cases."""
        from polygraphy.comparator import IterationResult, RunResults

        from ..validation.running import quiet

        results = RunResults()
        arrays = OrderedDict((name, _plain(array)) for name, array in outputs.items())
        with quiet():
            results.append((runtime, [IterationResult(arrays, runtime=seconds, runner_name=runtime)]))
            results.save(str(self._next(f"{OUTPUTS}/{file_name(runtime)}")))

    def add_accuracy(self, reference: str, runtime: str, thresholds: Sequence[Mapping[str, float]]) -> None:
        """Compare a runtime's outputs with the reference's, and write what Polygraphy makes of them.

        Polygraphy compares every element, those of tokens beyond a row's length too.

        Args:
            reference, runtime: whose outputs were written.
            thresholds: per case, the largest absolute error allowed of each output.
        """
        from polygraphy.comparator import Comparator

        from ..validation.running import quiet

        judge = _CaseByCase(thresholds)
        with quiet():
            runs = [self._stored(reference), self._stored(runtime)]
            accuracy = Comparator.compare_accuracy(runs, compare_func=judge, comparisons=[(0, 1)])
            accuracy.save(str(self._folder(ACCURACY) / f"{file_name(runtime)}.json"))

    def _stored(self, runtime: str) -> Iterator[Any]:
        """Yield a runtime's results, case by case."""
        from polygraphy.comparator import RunResults

        for path in sorted(self._folder(f"{OUTPUTS}/{file_name(runtime)}").glob("*.json")):
            yield RunResults.load(str(path))

    def _next(self, kind: str) -> Path:
        number = self._written.get(kind, 0)
        self._written[kind] = number + 1
        return self._folder(kind) / f"{number:010}.json"

    def _folder(self, kind: str) -> Path:
        folder = self._path / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@contextlib.contextmanager
def polygraphy_folder(target: str | Path) -> Iterator[PolygraphyFolder]:
    """Yield a folder to write to; it appears as `target` when the block ends well, and not at all when it does not.

    Raises:
        BadInputError: `target` is there and is not such a folder or empty, or cannot be written.
    """
    target = Path(target)
    if target.exists() and (
        not target.is_dir() or {item.name for item in target.iterdir()} - {INPUTS, OUTPUTS, ACCURACY}
    ):
        raise BadInputError(f"cannot write {target}: something else is there", "name a new folder")
    with atomic_directory(target.parent) as scratch:
        finished = scratch / target.name
        finished.mkdir()
        yield PolygraphyFolder(finished)
        replace_directory(finished, target, scratch)


class _CaseByCase:
    """Compares outputs with the thresholds of their case, in the order of the cases."""

    def __init__(self, thresholds: Sequence[Mapping[str, float]]) -> None:
        self._thresholds = iter(thresholds)

    def __call__(self, reference: Any, runtime: Any) -> Any:
        from polygraphy.comparator import CompareFunc

        allowed = dict(next(self._thresholds))
        return CompareFunc.simple(atol={"": 0.0, **allowed}, rtol=0.0, check_error_stat="max", check_shapes=True)(
            reference, runtime
        )


def _plain(array: Array) -> Array:
    """Return an array of a type that Polygraphy can write: NumPy's own, in which float32 holds every bfloat16."""
    plain = np.asarray(array)
    return np.ascontiguousarray(plain.astype(np.float32) if plain.dtype.kind == "V" else plain).reshape(plain.shape)
