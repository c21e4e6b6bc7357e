"""The study of damaged files: whatever an ONNX file holds, each command ends as documented.

    python -m tests.studies.damaged_files --count 500 [--seed 0] [--out FILE]

Each file is a good one with one or more damages: flipped, lost and added bytes, or fields of the message that were
changed at random (sizes, types, names, attributes, connections, metadata). Every command runs in a process of its own
with a limit on time and memory. Right is an exit code that the documentation has for the command; an internal error
(1), a crash, a command that does not end and one that takes more memory are wrong. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Exit codes that may follow from a file: good, usage (a dimension without a default), bad file, numbers, refusal, not
# judged, limit.
COMMANDS: dict[str, tuple[tuple[str, ...], frozenset[int]]] = {
    "inspect": (("inspect", "FILE"), frozenset({0, 4})),
    "validate": (("validate", "FILE", "--runtimes", "ort"), frozenset({0, 4, 5, 7})),
    "diff": (("diff", "FILE", "--runtimes", "ort", "--max-seconds", "20"), frozenset({0, 4, 5, 7, 8})),
    "build": (("build", "FILE", "--arch", "sm86"), frozenset({0, 2, 4, 6})),
}
# Imported once, so that each child has them already.
_SHARED = ("hsm_export.cli", "hsm_export.validation.opening", "hsm_export.diffing.api", "hsm_export.runtimes.onnx64")
SECONDS = 90
BYTES = 8 << 30  # of address space, most of which PyTorch and ONNX Runtime only reserve
Message = Any


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit code, or a signal's negative number; None when it was stopped for its time."""

    command: str
    file: str
    code: int | None
    seconds: float
    megabytes: int
    said: str

    @property
    def right(self) -> bool:
        """Whether the documentation has such an end."""
        return self.code in COMMANDS[self.command][1]


def good_models() -> dict[str, onnx.ModelProto]:
    """Return small models with what files have: functions, inner graphs, quantised weights, metadata, text."""
    rng = np.random.default_rng(3)

    def weight(name: str, *sizes: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(sizes).astype(np.float32), name)

    def model(nodes: Sequence[onnx.NodeProto], weights: Sequence[onnx.TensorProto], **more: Any) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name, width in ENDS.items()
        ]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)

    ENDS = {"x": 6, "y": 6}
    node = helper.make_node
    dense = model(
        [node("MatMul", ["x", "w"], ["a"], "product"), node("Softmax", ["a"], ["y"], "soft", axis=-1)],
        [weight("w", 6, 6)],
    )
    described = onnx.ModelProto()
    described.CopyFrom(dense)
    inputs = [{"name": "x", "shape": ["batch", 6], "example_shape": [2, 6], "low": None, "high": None}]
    values = {"precision": "fp32", "config": json.dumps({"max_length": 64}), "inputs": json.dumps(inputs)}
    helper.set_model_props(described, {f"hsm_export.{key}": value for key, value in values.items()})
    branches = [
        helper.make_graph([node(op, ["x"], ["b"])], op, [], [helper.make_tensor_value_info("b", 1, None)])
        for op in ("Neg", "Exp")
    ]
    condition = numpy_helper.from_array(np.array(True), "c")
    branching = model(
        [node("If", ["c"], ["y"], "either", then_branch=branches[0], else_branch=branches[1])], [condition]
    )
    opsets = [helper.make_opsetid("", 18)]
    gate = helper.make_function(
        "mine", "Gate", ["p"], ["q"], [node("Sigmoid", ["p"], ["s"]), node("Mul", ["p", "s"], ["q"])], opsets
    )
    calling = model(
        [node("Gate", ["x"], ["h"], "one", domain="mine"), node("Gate", ["h"], ["y"], "two", domain="mine")],
        [],
        functions=[gate],
    )
    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(128), "z")
    quantised = model(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            node("MatMul", ["d", "w"], ["y"]),
        ],
        [scale, zero, weight("w", 6, 6)],
    )
    return {"dense": dense, "described": described, "branching": branching, "calling": calling, "quantised": quantised}


def damaged(content: onnx.ModelProto, rng: random.Random) -> bytes:
    """Return a model's bytes with one or two damages; more would seldom reach what comes after the reader."""
    if rng.random() < 0.3:
        return _damaged_bytes(content.SerializeToString(), rng)
    changed = onnx.ModelProto()
    changed.CopyFrom(content)
    for _ in range(rng.choice((1, 1, 1, 2))):
        places = list(_places(changed))
        message, field = places[rng.randrange(len(places))]
        _change(message, field, rng)
    return changed.SerializeToString()


def _damaged_bytes(whole: bytes, rng: random.Random) -> bytes:
    content = bytearray(whole)
    way = rng.randrange(4)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(max(1, len(content)))
        if way == 0:
            content[at] = rng.randrange(256)
        elif way == 1:
            del content[at : at + rng.randint(1, 8)]
        elif way == 2:
            content[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            del content[at:]
            break
    return bytes(content)


def _places(message: Message) -> Iterator[tuple[Message, Any]]:
    """Yield every field that is set, at any depth, with the message that holds it."""
    for field, value in message.ListFields():
        yield message, field
        if field.type == field.TYPE_MESSAGE:
            for item in (value,) if hasattr(value, "ListFields") else value:
                yield from _places(item)


_NUMBERS = (0, 1, -1, 2, 7, 77, 255, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, -(2**63))
_TEXTS = (
    "",
    "x",
    "y",
    "w",
    "batch",
    "Add",
    "Gather",
    "Loop",
    "no such thing",
    "\x1b[31m",
    "x" * 3000,
    "../x",
    "[" * 2000,
)


def _change(message: Message, field: Any, rng: random.Random) -> None:
    """Change, repeat, swap or remove the value of a field."""
    value = getattr(message, field.name)
    repeated = hasattr(value, "append") or hasattr(value, "add")
    if rng.random() < 0.2:
        message.ClearField(field.name)
        return
    if repeated and rng.random() < 0.5 and len(value):
        index = rng.randrange(len(value))
        if rng.random() < 0.5:
            del value[index]
        else:
            value.extend([value[index]] * rng.randint(1, 3))
        return
    make = _maker(field, rng)
    if make is None:
        return
    try:
        if repeated:
            if len(value):
                value[rng.randrange(len(value))] = make()
        else:
            setattr(message, field.name, make())
    except (ValueError, TypeError):  # beyond the field's type: another change hits another field
        message.ClearField(field.name)


def _maker(field: Any, rng: random.Random) -> Callable[[], Any] | None:
    if field.type == field.TYPE_STRING:
        return lambda: rng.choice(_TEXTS)
    if field.type == field.TYPE_BYTES:
        return lambda: rng.randbytes(rng.choice((0, 1, 4, 144)))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return lambda: rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    return None if field.type == field.TYPE_MESSAGE else lambda: rng.choice(_NUMBERS)


def ending(command: str, path: Path, seconds: float = SECONDS) -> Ending:
    """Run a command on a file in a process of its own, and say how it ended."""
    arguments = [str(path) if word == "FILE" else word for word in COMMANDS[command][0]]
    log = path.with_suffix(".log")
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_command(arguments, log, seconds)
    _, status, usage = os.wait4(child, 0)
    code: int | None = os.waitstatus_to_exitcode(status)
    if code in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM):
        code = None
    text = log.read_text(errors="replace").splitlines()
    said = next((line for line in text if "error:" in line), text[-1] if text else "")
    return Ending(command, path.name, code, time.monotonic() - start, usage.ru_maxrss >> 10, said[:300])


def _be_the_command(arguments: Sequence[str], log: Path, seconds: float) -> None:
    """Become the command: never returns."""
    code = 1
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        from hsm_export.cli import run

        code = run(list(arguments))
        sys.stdout.flush()
    finally:
        os._exit(code)


def study(
    count: int, seed: int, commands: Sequence[str], folder: Path, report: Callable[[Ending], None] = lambda _: None
) -> list[Ending]:
    """Damage `count` files, run the commands on each and report how they end; what went wrong keeps its file."""
    for module in _SHARED:
        importlib.import_module(module)
    rng = random.Random(seed)
    models = good_models()
    found = []
    for number in range(count):
        name = rng.choice(sorted(models))
        path = folder / f"{number:04d}-{name}.onnx"
        path.write_bytes(damaged(models[name], rng))
        endings = [ending(command, path) for command in commands]
        found += endings
        for item in endings:
            report(item)
        path.with_suffix(".log").unlink()
        if all(item.right for item in endings):
            path.unlink()
        path.with_suffix(".engine").unlink(missing_ok=True)
        path.with_suffix(".engine.json").unlink(missing_ok=True)
    return found


def _print_wrong(item: Ending) -> None:
    if not item.right:
        print(json.dumps(asdict(item)), flush=True)


def main() -> int:
    """Run the study and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--folder", type=Path, help="keeps the files that went wrong")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = study(options.count, options.seed, options.commands, folder, _print_wrong)
    wrong = [item for item in found if not item.right]
    ends = {
        command: Counter(str(item.code) for item in found if item.command == command) for command in options.commands
    }
    slowest = max(found, key=lambda item: item.seconds)
    largest = max(found, key=lambda item: item.megabytes)
    print(
        json.dumps(
            {
                "files": options.count,
                "runs": len(found),
                "wrong": len(wrong),
                "exit codes": ends,
                "slowest": [slowest.command, round(slowest.seconds, 1)],
                "largest": [largest.command, largest.megabytes],
            }
        )
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
