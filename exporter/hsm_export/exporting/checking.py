"""Check a written file, in a process of its own: `python -m hsm_export.exporting.checking FOLDER`.

A process of its own, because the exporter's memory and the checker's then do not add up, and because a crash in native
code ends the check and not the command. The folder holds `job.json` and `feeds.npz`; the runs' results are written to
`results.npz`, and one JSON object on stdout says what was wrong, if anything.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dtypes import BY_PRECISION
from ..errors import BadInputError, HsmExportError

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
    (scratch / "job.json").write_text(json.dumps({"path": str(path), "runs": len(feeds)}))
    _save(scratch / "feeds.npz", feeds)
    environment = dict(os.environ)
    package_root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    finished = _run([sys.executable, "-m", __name__, str(scratch)], environment)
    if finished.returncode < 0:
        died = signal.Signals(-finished.returncode).name
        raise HsmExportError(f"the process that checked the exported file died of {died}", "is there enough memory?")
    try:
        answer = json.loads(finished.stdout)
    except json.JSONDecodeError as error:
        lines = finished.stderr.strip().splitlines()
        raise HsmExportError(f"the check of the exported file failed: {lines[-1] if lines else 'no reason'}") from error
    if answer["error"] is not None:
        raise BadInputError(f"the exported file does not pass its checks: {answer['error']}", answer["hint"])
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


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; an interruption ends it too."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            stdout, stderr = process.communicate()
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


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
    model = onnx.load(path, load_external_data=False)
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise BadInputError(f"strict shape inference refuses it: {_short(error)}") from error
    _check_mixers(model)
    return model


def _check_mixers(model: onnx.ModelProto) -> None:
    from ..file_operators import FileOperators

    bodies = {(function.domain, function.name) for function in model.functions}
    for node, operator in FileOperators(model).nodes(model.graph):
        if (node.domain, node.op_type) not in bodies:
            raise BadInputError(f"node {node.name} ({node.domain}::{node.op_type}) has no function body in the file")
        wanted = operator.plugin_attributes
        written = {attribute.name: attribute.s.decode() for attribute in node.attribute if attribute.name in wanted}
        if written != wanted:
            raise BadInputError(f"node {node.name} lacks the attributes {', '.join(sorted(wanted))}")


def run_file(model: onnx.ModelProto, folder: Path, feeds: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
    """Run a model in ONNX Runtime on the CPU, from its function bodies; returns output name -> array for each run.

    Raises:
        BadInputError: ONNX Runtime refuses the model or fails in a run.
    """
    from ..runtimes.bfloat16 import widen_bfloat16
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


def _main(scratch: Path) -> None:
    job = json.loads((scratch / "job.json").read_text())
    path = Path(job["path"])
    try:
        results = run_file(check_file(path), path.parent, _load(scratch / "feeds.npz", job["runs"]))
    except HsmExportError as error:
        print(json.dumps({"error": error.message, "hint": error.hint}))
        return
    _save(scratch / "results.npz", results)
    print(json.dumps({"error": None, "hint": None}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
