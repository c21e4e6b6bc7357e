"""The same ten faults in Polygraphy and here: which node is found, with which reason, in how much processor time.

    python -m tests.studies.polygraphy_table [--count 10] [--out FILE]

Each case has a good file, and either a bad file or a fault that a runtime makes. `polygraphy run` compares all tensors
of the bad file with those of the good one, `polygraphy debug reduce` cuts the bad file down to what still differs; a
runtime's fault is given to it as a bad file, because its command line knows no such runtime. `diff` gets the two files,
or the good file and the runtime. onnx-graphsurgeon, which `debug reduce` needs, is fetched by name into the study's
folder. The table goes to docs/polygraphy.md when all ten cases were run. The last line is a JSON object.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.studies.generated_files import Builder, branches, scanned
from tests.studies.planting import Fault, planted
from tests.studies.study import INTERNAL, PASSED, Record, arguments, counted, run

from hsm_export.diffing import DiffOptions, diff
from hsm_export.diffing.files.api import diff_files

Array = NDArray[Any]
ROOT = Path(__file__).resolve().parents[2]
FOLDER, TABLE = Path("build/studies/polygraphy"), ROOT / "docs" / "polygraphy.md"
NEEDED = "onnx-graphsurgeon"
SKIPPED = 3  # for tools/check_all.py
# Its script of this environment; it is no module that can be run.
POLYGRAPHY = (sys.executable, str(Path(sys.executable).parent / "polygraphy"))
TOLERANCE = ("--atol", "1e-4", "--rtol", "1e-4")


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        name: what is wrong.
        good, bad: the files; `bad` has the fault for Polygraphy, and for `diff` too where `fault` is None.
        node: the node at fault.
        feed: the inputs.
        fault: what a runtime does wrong with the good file; None where the bad file is what is wrong.
        alone: `diff` gets the bad file alone: its own maths says what is right.
    """

    name: str
    good: onnx.ModelProto
    bad: onnx.ModelProto
    node: str
    feed: dict[str, Array]
    fault: Fault | None = None
    alone: bool = False


def _network(inner: Callable[[Builder, str], str] | None = None) -> tuple[Builder, onnx.ModelProto]:
    """Return a residual network of three blocks, of 19 nodes and those of what lies in its middle."""
    b, x = Builder(5, 18), "x"
    for place in range(3):
        y = b.node("LayerNormalization", x, b.constant(np.ones(8, np.float32)), axis=-1)
        y = b.node("Add", b.node("MatMul", y, b.weight(8, 8)), b.weight(8))
        y = b.node("Mul", y, b.node("Sigmoid", y))
        x = b.node("Add", x, y)
        if place == 1 and inner is not None:
            x = inner(b, x)
    model = b.model(b.node("MatMul", x, b.weight(8, 4)))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    return b, model


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _changed(
    name: str, operator: str, change: Callable[[onnx.GraphProto, onnx.NodeProto], None], inner: Any = None
) -> Case:
    """Return a case of two files: the second node of an operator is changed."""
    _, good = _network(inner)
    bad = _copy(good)
    place = [index for index, node in enumerate(bad.graph.node) if node.op_type == operator][1 if inner is None else 0]
    node = bad.graph.node[place].name
    change(bad.graph, bad.graph.node[place])
    return Case(name, good, bad, node, _feed())


def _planted(name: str, tensor: str, node: str, size: float, shape: tuple[int, ...], inner: Any = None) -> Case:
    """Return a case of one file: a runtime adds something to one element of one result."""
    _, good = _network(inner)
    pattern = np.zeros(shape)
    pattern[tuple(extent // 2 for extent in shape)] = size
    fault = Fault(tensor, "float32", pattern)
    return Case(name, good, fault.plant(good), node, _feed(), fault)


def _feed() -> dict[str, Array]:
    return {"x": np.random.default_rng(1).standard_normal((3, 5, 8)).astype(np.float32)}


def _weight(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    return next(item for item in graph.initializer if item.name == name)


def _subtract(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    node.op_type = "Sub"


def _transpose(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    tensor = _weight(graph, node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(tensor).T), tensor.name))


def _epsilon(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    node.attribute.append(helper.make_attribute("epsilon", 1e-2))


def _scale(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    tensor = _weight(graph, node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.05), tensor.name))


def _shift(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    tensor = _weight(graph, node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), 1), tensor.name))


def _quantised(b: Builder, x: str) -> str:
    weight = b.constant(b.rng.integers(-63, 64, (8, 8)).astype(np.int8))
    return b.node("MatMul", x, b.node("DequantizeLinear", weight, b.constant(np.float32(0.01)), b.constant(np.int8(0))))


def _gathered(b: Builder, x: str) -> str:
    return b.node("Gather", x, b.constant(np.array([0, 0, 1, 2, 3], np.int64)), axis=1)


def _dropping(b: Builder, x: str) -> str:
    return b.node("Dropout", x, b.constant(np.float32(0.25)), b.constant(np.array(True)))


def _overflow() -> Case:
    """Squares that pass through float16: Polygraphy is given the float32 file's tensors, `diff` the bad file alone."""
    files = []
    for kind in (TensorProto.FLOAT, TensorProto.FLOAT16):
        b = Builder(5, 18)
        scaled = b.node("Mul", "x", b.constant(np.float32(200)))
        squares = b.node("Cast", b.node("Mul", scaled, scaled), to=kind)
        mean = b.node("ReduceMean", b.node("Cast", squares, to=1), b.constant(np.array([-1], np.int64)))
        model = b.model(b.node("MatMul", b.node("Div", scaled, b.node("Sqrt", mean)), b.weight(8, 4)))
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
        files.append(model)
    return Case("file: float16 overflow", files[0], files[1], "Cast_t2", _feed(), alone=True)


def cases() -> list[Case]:
    """Return the ten cases."""
    _, dropping = _network(_dropping)
    drop = next(node.name for node in dropping.graph.node if node.op_type == "Dropout")
    return [
        _changed("file: wrong sign", "Add", _subtract),
        _planted("runtime: one wrong element of a product", "t7", "MatMul_t7", 1.0, (3, 5, 8)),
        _changed("file: transposed weight", "MatMul", _transpose),
        _overflow(),
        _planted("runtime: wrong inside a branch", "a0", "Tanh_a0", 0.5, (3, 5, 8), branches),
        _changed("file: another epsilon", "LayerNormalization", _epsilon),
        _changed("file: a quantised weight's scale", "DequantizeLinear", _scale, _quantised),
        Case("file: Dropout left on", dropping, dropping, drop, _feed(), alone=True),
        _planted("runtime: wrong inside a Scan", "n", "Tanh_n", 0.5, (3, 8), scanned),
        _changed("file: positions off by one", "Gather", _shift, _gathered),
    ]


def graph_surgeon(folder: Path) -> Path | None:
    """Fetch what `polygraphy debug` needs, beside the environment and not into it; None where it cannot be fetched."""
    target = folder / "packages"
    if not target.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), NEEDED]
        if subprocess.run(command, timeout=600).returncode:
            return None
    return target


def _called(command: Sequence[str], folder: Path, packages: Path | None) -> tuple[str, float]:
    """Run Polygraphy; return what it printed, and its processor time and that of what it started."""
    path = os.pathsep.join(item for item in (str(packages or ""), os.environ.get("PYTHONPATH", "")) if item)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*POLYGRAPHY, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout + done.stderr, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def by_polygraphy(case: Case, folder: Path, packages: Path) -> Record:
    """Return which nodes Polygraphy names, and how long it takes."""
    from polygraphy.comparator import RunResults
    from polygraphy.json import save_json

    onnx.save(case.good, str(folder / "good.onnx"))
    onnx.save(case.bad, str(folder / "bad.onnx"))
    save_json([case.feed], str(folder / "feed.json"))
    every, given = ("--onnx-outputs", "mark", "all"), ("--onnxrt", "--load-inputs", "feed.json")
    _called(["run", "good.onnx", *given, *every, "--save-outputs", "right.json"], folder, None)
    right = dict(RunResults.load(str(folder / "right.json"))[0][1][0].items())
    save_json([{**case.feed, **right}], str(folder / "all.json"))
    compare = ("--load-outputs", "right.json", *TOLERANCE)
    said, seconds = _called(["run", "bad.onnx", *given, *every, *compare], folder, None)
    differing = re.findall(r"FAILED \| Output: '(.+?)'", said)
    makers = {name: node for node in case.bad.graph.node for name in node.output}
    first = _credited(makers[differing[0]].name, case) if differing else ""
    check = [*POLYGRAPHY, "run", "polygraphy_debug.onnx", "--onnxrt", "--load-inputs", "all.json", *compare]
    reduce = ["debug", "reduce", "bad.onnx", "-o", "reduced.onnx", "--mode", "bisect", "--load-inputs", "all.json"]
    # A check that fails for another reason than numbers must not pass for a finding.
    _, longer = _called([*reduce, "--fail-regex", "Mismatched outputs", "--check", *check], folder, packages)
    reduced = folder / "reduced.onnx"
    left = [node.name for node in onnx.load(str(reduced)).graph.node] if reduced.exists() else []
    return {
        "run_node": first,
        "run_seconds": round(seconds, 1),
        "reduced_to": list(dict.fromkeys(_credited(name, case) for name in left)),
        "reduce_seconds": round(longer, 1),
    }


def _credited(name: str, case: Case) -> str:
    """Return a node's name; what stands for a runtime's fault in the bad file is the node at fault."""
    return case.node if case.fault is not None and name == f"{case.fault.tensor} fault" else name


def by_diff(case: Case, folder: Path) -> Record:
    """Return which node `diff` names with which word, and how long it takes in a process of its own."""
    start = time.process_time()
    if case.fault is None and not case.alone:
        found = diff_files(folder / "good.onnx", folder / "bad.onnx", inputs=case.feed)
        readers = {name: node.name for node in case.bad.graph.node for name in node.input}
        named = [item.node for item in found.nodes] + [readers.get(item.name, "") for item in found.weights]
        words = [*(text for item in found.nodes for text in item.details), *(item.note for item in found.weights)]
        known = next((word for word in words if word), "")
        differs = any(not item.passed for item in found.outputs)
        return {"node": named[0] if named else "", "word": known or "weights changed", "seen": differs} | _spent(start)
    name = "bad.onnx" if case.alone else "good.onnx"
    with planted({} if case.fault is None else {"ort": case.fault}):
        result = diff(folder / name, ["ort"], inputs=case.feed, options=DiffOptions(generate=0))
    if result.unjudged:
        return {"node": result.unjudged[0], "word": "random", "seen": not result.passed} | _spent(start)
    (culprit,) = result.culprits[:1] or (None,)
    node, word = (culprit.layer.node, culprit.word) if culprit else ("", "")
    return {"node": node, "word": word, "seen": not result.passed} | _spent(start)


def _spent(start: float) -> Record:
    return {"seconds": round(time.process_time() - start, 1)}


def examined(case: Case, packages: Path) -> Record:
    """Give a case to both."""
    with tempfile.TemporaryDirectory(prefix="hsm-study-") as scratch:
        folder = Path(scratch)
        theirs = by_polygraphy(case, folder, packages)
        # As they do, in a process of its own: what Python imports takes most of the time of all three.
        command = [sys.executable, "-W", "ignore", "-m", "tests.studies.polygraphy_table", "--alone", case.name]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*command, "--folder", str(folder)], cwd=ROOT, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return {"end": INTERNAL, "said": done.stderr[-2000:]}
    ours = json.loads(done.stdout.splitlines()[-1])
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    right = case.node in ours["node"] and ours["seen"]
    record = {"planted": case.node, **theirs, **ours, "seconds": round(seconds, 1)}
    return {"end": PASSED if right else "not found", "said": f"{ours['node']}, not {case.node}", **record}


def table(records: Sequence[Record]) -> str:
    """Return the table of the report."""
    lines = [
        "| fault | node at fault | `polygraphy run`, all tensors | s | `polygraphy debug reduce` | s | `diff` | "
        "reason | s |",
        "| --- | --- | --- | ---: | --- | ---: | --- | --- | ---: |",
    ]
    for item in records:
        planted_in = item["planted"]
        first = _said([item["run_node"]] if item["run_node"] else [], planted_in)
        left = _said(item["reduced_to"], planted_in)
        ours = "the node" if planted_in in item["node"] else item["node"] or "nothing"
        lines.append(
            f"| {item['case']} | `{planted_in}` | {first} | {item['run_seconds']} | {left} | {item['reduce_seconds']} "
            f"| {ours} | {item['word']} | {item['seconds']} |"
        )
    return "\n".join(lines)


def _said(nodes: Sequence[str], right: str) -> str:
    if not nodes:
        return "nothing"
    if list(nodes) == [right]:
        return "the node"
    shown = ", ".join(f"`{name}`" for name in nodes[:2]) + (f" and {len(nodes) - 2} more" if len(nodes) > 2 else "")
    return f"{len(nodes)} nodes with it: {shown}" if right in nodes else shown


def write(records: Sequence[Record]) -> None:
    """Put the table into its page, between the two marks."""
    begin, end = "<!-- table -->", "<!-- end of table -->"
    text = TABLE.read_text(encoding="utf-8")
    before, rest = text.split(begin, 1)
    TABLE.write_text(f"{before}{begin}\n{table(records)}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def main() -> int:
    """Run the study, write the table where it is whole, and print what came of it."""
    if "--alone" in sys.argv:
        name, folder = sys.argv[2], Path(sys.argv[4])
        print(json.dumps(by_diff(next(case for case in cases() if case.name == name), folder)))
        return 0
    options = arguments(__doc__, "polygraphy.jsonl", count=10)
    packages = graph_surgeon((ROOT / FOLDER).resolve())
    if packages is None:
        print(f"{NEEDED} cannot be fetched, which `polygraphy debug reduce` needs", file=sys.stderr)
        return SKIPPED

    def one(case: Case) -> Callable[[], Record]:
        return lambda: examined(case, packages)

    known = cases()
    records = run(options.out, [(case.name, one(case)) for case in known[: options.count]], options.until)
    bad = [record for record in records if record["end"] != PASSED]
    if len(records) == len(known) and not bad:
        write(records)
    print(json.dumps(counted(records, wrong=len(bad), of=len(known))))
    return 1 if bad or not records else 0


if __name__ == "__main__":
    sys.exit(main())
