"""A bundle's self-test: inputs, the right outputs, and how far off a runtime on another machine may be.

`self-test.safetensors` holds `model.inputs.NAME` and `model.outputs.NAME` of one call, and `decode.inputs.tokens`,
`.position`, `.lengths` and `decode.outputs.logits` of one call whose state starts at zero, its capacity as long as the
call. Outputs are float32, and NaN where nothing is to be compared: what lies beyond a row's length, and what follows a
choice between experts that no runtime has to make alike. bfloat16 inputs are stored as float32 of the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..comparison.error import is_exact
from ..comparison.verdict import judge
from ..errors import BadInputError, MissingDependencyError, NumbersDifferError
from ..formats.bundle_manifest import Manifest, Part
from .opening import Bundle

if TYPE_CHECKING:
    from torch import nn

    from ..comparison.bar import Bar
    from ..formats.state_spec import StateSpec
    from ..onnx_model.model_file import ModelFile
    from ..runtimes.runtime import Runtime
    from ..validation.cases import Case
    from ..validation.references import References

Array = NDArray[Any]
Progress = Callable[[str], None]

# The first shape is the one that is stored. The others show how large native errors get: a classifier gives few
# numbers for a row, so only many rows show it.
_LENGTH, _ROWS = 24, 2
# A decoding model gets a call in which all slots of its state are written twice, if that takes no more tokens.
_MOST_TOKENS = 160
_OTHER_SHAPES = ((1, 1), (4, 3), (3, 17))
_MANY_ROWS = 32
# Outputs of a model with a large vocabulary stay below so many numbers.
_MOST_NUMBERS = 1_000_000
# Runtimes that read the graph for CPUs where there is one, as the C++ runtime does.
_ON_CPU = ("ort", "ort-fused")
# The inputs of a decoding model beside its state.
_CALL = ("tokens", "position", "lengths")


@dataclass(frozen=True)
class SelfTest:
    """Arrays by their names in the file, the tolerance of each output, and whose numbers they are."""

    arrays: Mapping[str, Array]
    tolerances: Mapping[str, float]
    arbiter: str


@dataclass(frozen=True)
class Check:
    """One output of a self-test: its largest absolute error and what it may be."""

    output: str
    max_abs_error: float
    tolerance: float
    compared: int


def model_self_test(path: Path, against: str | Path | nn.Module | None, progress: Progress) -> SelfTest:
    """Compute the self-test of a model that reads whole sequences.

    Raises:
        BadInputError: the model does not give finite numbers, or no number can be compared.
    """
    from ..onnx_model.model_file import open_model
    from ..validation.cases import shaped_cases
    from ..validation.opening import references

    file = open_model(path)
    length = _length(file, file.config.get("max_length"))
    shapes = [(_ROWS, length), *((rows, min(size, length)) for rows, size in _OTHER_SHAPES)]
    if file.task != "language_model":
        shapes.append((_MANY_ROWS, min(17, length)))
    cases = [_storable(file, case) for case in shaped_cases(file, shapes)[: len(shapes)]]
    found = references(file, cases, against, progress)
    outputs = {name: _expected(bar) for name, bar in found.bars[0].items() if _is_storable(bar)}
    if not outputs:
        raise BadInputError(f"{path}: no output can be compared: right runtimes may choose other whole numbers")
    return _self_test("model", path, found, found.cases[0].feed, outputs)


def decode_self_test(path: Path, against: str | Path | nn.Module | None, progress: Progress) -> SelfTest:
    """Compute the self-test of a decoding model: one call with rows of different length.

    Raises:
        BadInputError: the model does not give finite numbers, or no number can be compared.
    """
    from ..onnx_model.model_file import open_model
    from ..validation.cases import Case
    from ..validation.opening import references

    file = open_model(path)
    state = file.state()
    length = _length(file, state.longest(), min(2 * state.most_slots + 3, _MOST_TOKENS))
    tokens = next(spec for spec in file.inputs if spec.name == "tokens")
    rng = np.random.default_rng(0)
    cases = []
    for rows, size in ((_ROWS, length), *((rows, min(size, length)) for rows, size in _OTHER_SHAPES)):
        ids = rng.integers(tokens.drawn[0], tokens.drawn[1] + 1, (rows, size)).astype(np.int64)
        lengths = np.array([size, *rng.integers(1, size + 1, rows - 1)], np.int64)
        cases.append(Case(f"one call {rows}×{size}", _first_call(state, ids, lengths)))
    found = references(file, cases, against, progress)
    inputs = {name: found.cases[0].feed[name] for name in _CALL}
    return _self_test("decode", path, found, inputs, {"logits": _expected(found.bars[0]["logits"])})


def read_self_test(bundle: Bundle) -> dict[str, Array]:
    """Return the arrays of a bundle's self-test.

    Raises:
        BadInputError: the file is damaged, or lacks what the manifest says that it compares.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = bundle.file(bundle.manifest.self_test.file)
    try:
        arrays: dict[str, Array] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise BadInputError(f"{path} is not a readable self-test: {error}", "write the bundle again") from error
    missing = sorted(_needed(bundle.manifest) - set(arrays))
    if missing:
        raise BadInputError(f"{path} lacks {missing[0]}", "write the bundle again")
    return arrays


def run_self_test(bundle: Bundle, runtime: str, progress: Progress) -> tuple[Check, ...]:
    """Run the self-test in a runtime.

    Raises:
        MissingDependencyError: the runtime does not work here.
        NumbersDifferError: an output is off by more than its tolerance.
    """
    from ..runtimes import get

    chosen = get(runtime)
    reason = chosen.available()
    if reason:
        raise MissingDependencyError(f"the runtime {runtime} does not work here: {reason}")
    arrays = read_self_test(bundle)
    outputs: dict[str, Array] = {}
    for part in bundle.manifest.parts:
        progress(f"running the self-test of the {part} in {runtime}")
        results = _run(bundle, part, chosen, _under(arrays, f"{part}.inputs."))
        outputs.update({f"{part}.{name}": array for name, array in results.items()})
    return _judge(bundle, runtime, arrays, outputs)


def _length(file: ModelFile, longest: int | None, wanted: int = 0) -> int:
    """Return the length of the stored call: short where the model is, or its outputs are wide."""
    outputs = file.model.graph.output
    widths = (int(dim.dim_value) for value in outputs for dim in value.type.tensor_type.shape.dim[-1:])
    fitting = _MOST_NUMBERS // (_ROWS * max(1, *widths, 1))
    usual = max(_LENGTH, wanted)
    return max(1, min(usual, fitting, longest or usual))


def _storable(file: ModelFile, case: Case) -> Case:
    """Round floating-point inputs to the type in which the model takes them; that is what gets stored."""
    from ..validation.given_inputs import rounded

    return replace(case, feed=rounded(file, case.feed))


def _first_call(state: StateSpec, tokens: Array, lengths: Array) -> dict[str, Array]:
    """Return the inputs of a call whose state is that before the first token."""
    from ..validation.stepping import empty_state

    position = np.zeros(len(tokens), np.int64)
    return {"tokens": tokens, "position": position, "lengths": lengths, **empty_state(state, *tokens.shape)}


def _is_storable(bar: Bar) -> bool:
    """Say whether what is expected can be written: whole numbers have no NaN for those that are not compared."""
    return not is_exact(bar.reference) or bool(np.all(bar.comparable))


def _expected(bar: Bar) -> Array:
    if is_exact(bar.reference):
        return bar.reference
    return np.where(bar.comparable, bar.reference, np.nan).astype(np.float32)


def _self_test(
    part: str, path: Path, found: References, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> SelfTest:
    for name, array in outputs.items():
        if not np.isfinite(array).any():
            raise BadInputError(
                f"{path}: no number of {name} can be compared: a right runtime may choose other experts",
                "export in fp32 or fp16",
            )
    arrays = {f"{part}.inputs.{name}": array for name, array in inputs.items()}
    arrays |= {f"{part}.outputs.{name}": array for name, array in outputs.items()}
    tolerances = {f"{part}.{name}": found.bars[0][name].threshold.value for name in outputs}
    return SelfTest({name: np.ascontiguousarray(array) for name, array in arrays.items()}, tolerances, found.arbiter)


def _needed(manifest: Manifest) -> set[str]:
    needed = {".outputs.".join(output.split(".", 1)) for output in manifest.self_test.tolerances}
    if manifest.model:
        needed |= {f"model.inputs.{tensor.name}" for tensor in manifest.model.inputs}
    if manifest.decode:
        needed |= {f"decode.inputs.{name}" for name in _CALL}
    return needed


def _under(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _run(bundle: Bundle, part: Part, runtime: Runtime, inputs: Mapping[str, Array]) -> dict[str, Array]:
    from ..onnx_model.model_file import open_model
    from ..runtimes.runtime import RunContext
    from ..validation.running import quiet

    entry = bundle.manifest.parts[part]
    file = open_model(bundle.file((runtime.name in _ON_CPU and entry.cpu_file) or entry.file))
    feed = dict(inputs)
    if part == "decode":
        assert bundle.manifest.state is not None
        feed = _first_call(bundle.manifest.state, inputs["tokens"], inputs["lengths"])
    with quiet(), runtime.runner(RunContext(file.model, bundle.path, file.precision)) as runner:
        return {name: np.array(array) for name, array in runner.infer(feed, check_inputs=False).items()}


def _judge(
    bundle: Bundle, runtime: str, arrays: Mapping[str, Array], outputs: Mapping[str, Array]
) -> tuple[Check, ...]:
    checks = []
    for name, tolerance in bundle.manifest.self_test.tolerances.items():
        expected = arrays[".outputs.".join(name.split(".", 1))]
        actual = outputs.get(name)
        if actual is None or actual.shape != expected.shape:
            raise NumbersDifferError(f"{runtime} gives no {name} of shape {list(expected.shape)} for {bundle.path}")
        counted = ~np.isnan(expected) if expected.dtype.kind == "f" else np.ones(expected.shape, bool)
        found = judge(actual, expected, tolerance, counted)
        if found.reason:
            raise NumbersDifferError(
                f"the self-test of {bundle.path} fails in {runtime}: {name} is off {found.how}",
                "`hsm-export validate` on the ONNX file names the operator that departs",
            )
        checks.append(Check(name, found.errors.max_abs, tolerance, int(counted.sum())))
    return tuple(checks)
