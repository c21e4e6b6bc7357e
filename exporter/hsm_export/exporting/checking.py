"""Check a written file, in a process of its own: `python -m hsm_export.exporting.checking` (see `child_process`).

A process of its own, because the exporter's memory and the checker's then do not add up, and because a crash in native
code ends the check and not the command. The request "check" names a folder; it holds the arrays of the runs in
`feeds.npz`, and gets their results in `results.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..child_process import Channel, ChildProcess, ProcessEndedError, python_command, python_environment
from ..dtypes import BY_PRECISION
from ..errors import BadInputError
from ..onnx_model.model_file import open_model

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

Arrays = Mapping[str, "NDArray[Any]"]
_NUMPY_TYPES = {BY_PRECISION[word].ort_name: BY_PRECISION[word].name for word in ("fp32", "fp16")}


def check_in_subprocess(path: Path, feeds: Sequence[Arrays], scratch: Path) -> list[dict[str, NDArray[Any]]]:
    """Check a file and run it in ONNX Runtime.

    Args:
        path: the ONNX file, its external data beside it.
        feeds: for each run input name -> array; expert operators take `<node>.routing_mask` too.
        scratch: an empty directory for the exchange of arrays.

    Returns:
        For each run output name -> array.

    Raises:
        BadInputError: the file breaks a rule of the format or of this project, or ONNX Runtime refuses it.
        HsmExportError: the checking process died.
    """
    _save(scratch / "feeds.npz", feeds)
    job = {"path": str(path), "scratch": str(scratch), "runs": len(feeds)}
    name = "the process that checks the exported file"
    with ChildProcess(name, python_command(__name__), python_environment()) as child:
        try:
            child.ask("check", job)
        except ProcessEndedError as error:
            error.hint = "is there enough memory?"
            raise
        except BadInputError as error:
            raise BadInputError(f"the exported file does not pass its checks: {error.message}", error.hint) from error
    return _load(scratch / "results.npz", len(feeds))


def _save(path: Path, runs: Sequence[Arrays]) -> None:
    """Write the arrays of several runs into one file."""
    import numpy as np

    arrays: dict[str, Any] = {f"{run}/{name}": array for run, found in enumerate(runs) for name, array in found.items()}
    np.savez(path, **arrays)


def _load(path: Path, count: int) -> list[dict[str, NDArray[Any]]]:
    """Read what `_save` wrote."""
    import numpy as np

    runs: list[dict[str, NDArray[Any]]] = [{} for _ in range(count)]
    with np.load(path) as arrays:
        for key in arrays.files:
            run, name = key.split("/", 1)
            runs[int(run)][name] = arrays[key]
    return runs


def check_file(path: Path) -> onnx.ModelProto:
    """Check a file's format and return its graph, external data not loaded.

    Raises:
        BadInputError: the ONNX checker or strict shape inference refuses it, or a mixer operator lacks its function
            body or its plugin attributes.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BadInputError(f"the ONNX checker refuses it: {_short(error)}") from error
    file = open_model(path)
    try:
        onnx.shape_inference.infer_shapes(file.model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise BadInputError(f"strict shape inference refuses it: {_short(error)}") from error
    for node, operator in file.operators:
        wanted = operator.plugin_attributes
        written = {attribute.name: attribute.s.decode() for attribute in node.attribute if attribute.name in wanted}
        if written != wanted:
            raise BadInputError(f"node {node.name} lacks the attributes {', '.join(sorted(wanted))}")
    return file.model


def run_file(model: onnx.ModelProto, folder: Path, feeds: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
    """Run a model in ONNX Runtime on the CPU, from its function bodies; returns output name -> array for each run.

    Raises:
        BadInputError: ONNX Runtime refuses the model or fails in a run.
    """
    from ..onnx_model.bfloat16 import widen_bfloat16
    from ..runtimes.routing import instrument
    from ..runtimes.session import cpu_session

    names = [output.name for output in model.graph.output]
    instrumented, _ = instrument(model)
    try:
        session = cpu_session(widen_bfloat16(instrumented, borders=True), folder, lean=True)
        types = {value.name: _NUMPY_TYPES.get(value.type) for value in session.get_inputs()}
        typed = [{name: array.astype(types[name] or array.dtype) for name, array in feed.items()} for feed in feeds]
        return [dict(zip(names, session.run(names, feed), strict=True)) for feed in typed]
    except Exception as error:
        # The exceptions of ONNX Runtime have no common base but Exception.
        raise BadInputError(f"ONNX Runtime refuses it: {_short(error)}") from error


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:400] if lines else type(error).__name__


def _check(job: dict[str, Any]) -> None:
    path, scratch = Path(job["path"]), Path(job["scratch"])
    results = run_file(check_file(path), path.parent, _load(scratch / "feeds.npz", job["runs"]))
    _save(scratch / "results.npz", results)


if __name__ == "__main__":
    Channel().serve({"check": _check})
