"""The opened ONNX file: what every command reads."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsm_operators import Operator

from ..dtypes import BY_NAME, BY_ONNX
from ..errors import BadInputError
from ..files import require_file, sha256
from ..formats.state_spec import DIGEST_KEY, METADATA_KEY, StateSpec
from ..formats.tensor import UNTYPED, InputSpec, Tensor
from .external_data import external_files
from .file_operators import FileOperators
from .input_bounds import input_specs, looked_up
from .limits import tensor_bytes, tensors_of
from .metadata import check, recorded
from .nodes import nodes_of
from .parsing import checker_problem, parse
from .values import tensor_of

if TYPE_CHECKING:
    import onnx


# Why other inputs and outputs are refused where engines are built.
ENGINE_BINDS = "an engine binds only tensors of numbers and Booleans"
_QUANTISED_MATHS = ("QLinear", "QGemm", "QAttention", "QMoE", "QEmbed", "MatMulInteger", "ConvInteger")
# Outputs that become several arrays.
_COMPARED = ("sequence(", "map(", "optional(")
_BLOCKWISE = ("MatMulNBits", "GatherBlockQuantized")


@dataclass(frozen=True)
class FileFacts:
    """What is recorded of an ONNX file where something is made from it; a build kit carries it to another machine.

    Attributes:
        path: the file.
        sha256: SHA-256 of its bytes, in hexadecimal.
        inputs, outputs: of its graph.
        precision: as in `ModelFile`.
        external_data: SHA-256 of each external data file, by its name relative to the model.
        metadata: as in `ModelFile`.
    """

    path: Path
    sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    precision: str
    external_data: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    max_length: int | None = None

    @property
    def dynamic_dimensions(self) -> tuple[str, ...]:
        """Names of the inputs' dynamic dimensions, in order of appearance."""
        return tuple(dict.fromkeys(size for tensor in self.inputs for size in tensor.shape if isinstance(size, str)))

    def state(self) -> StateSpec:
        """Return the state that a decoding file carries from call to call.

        Raises:
            BadInputError: it has none.
        """
        return _state(self.metadata, self.path)


@dataclass(frozen=True)
class ModelFile:
    """An opened ONNX file.

    Attributes:
        path: where it lies.
        model: its graph; external data is not loaded.
        metadata: what our exporter recorded, without the prefix `hsm_export.`; empty for other files.
        precision: type of the weights and activations: "fp32", "fp16", "bf16" or "fp64". What the exporter recorded,
            else the floating-point type of most weights or, without any, of the inputs or outputs.
        inputs: what may be fed.
        outputs: what comes out.
        config: the model's configuration as JSON data; empty for a user's own module.
        parts: the configuration of each mixer and feed-forward network by the module's name; empty for other files.
        relations: comparisons of dynamic dimensions that the file holds for, such as "length <= mask_length".
        example: the sizes of the dynamic dimensions in the exporter's example, as far as they are recorded.
        quantised: the type of quantised weights and how they are used, such as "int8, QDQ"; "" for other files.
        external_files: names of the files beside it that hold weights.
    """

    path: Path
    model: onnx.ModelProto
    metadata: dict[str, str]
    precision: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[Tensor, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    example: dict[str, int] = field(default_factory=dict)
    relations: tuple[str, ...] = ()
    quantised: str = ""
    external_files: tuple[str, ...] = ()

    @property
    def lengths(self) -> InputSpec | None:
        """The input that holds the number of valid tokens of each row, whatever its name; None without one."""
        return next((spec for spec in self.inputs if spec.is_lengths), None)

    def lengths_in(self, feed: Mapping[str, Any]) -> Any:
        """Return the numbers of valid tokens (B,) that a feed holds; None where the file takes none."""
        spec = self.lengths
        return None if spec is None else feed.get(spec.name)

    @property
    def tokens(self) -> InputSpec | None:
        """The input that holds a language model's tokens (B,T): the one such of integers; None without one."""
        others = [spec for spec in self.inputs if spec.name != "position" and not spec.name.startswith("past.")]
        candidates = [spec for spec in others if not spec.is_lengths]
        if len(candidates) == 1 and candidates[0].is_integer and len(candidates[0].shape) == 2:
            return candidates[0]
        return None

    @property
    def scored_tokens(self) -> InputSpec | None:
        """The tokens (B,T) that logits are of; of several such inputs, that with a row of its table for each logit."""
        if self.tokens is not None:
            return self.tokens
        logits = {output.shape[-1] for output in self.outputs if len(output.shape) == 3}
        candidates = [spec for spec in self.inputs if spec.is_integer and len(spec.shape) == 2]
        rows = {spec.name: set(looked_up(self.model, spec.name, {}, certain=True)) for spec in candidates}
        found = [spec for spec in candidates if rows[spec.name] & logits]
        return found[0] if len(found) == 1 else None

    @property
    def task(self) -> str:
        """What the model does, or "" when the file does not say."""
        return self.metadata.get("task", "")

    @property
    def decodes(self) -> bool:
        """Whether the graph carries a state from call to call."""
        return self.metadata.get("decode") == "1"

    @property
    def max_length(self) -> int | None:
        """The most tokens that the model's positions allow; None for any number."""
        return self.config.get("max_length") or None

    @property
    def bytes(self) -> int:
        """The size of the file and its external data."""
        return sum(path.stat().st_size for path in (self.path, *(self.path.parent / n for n in self.external_files)))

    @functools.cached_property
    def operators(self) -> list[tuple[onnx.NodeProto, Operator]]:
        """The graph's nodes that are mixer operators, with their specifications, in order."""
        return FileOperators(self.model).nodes(self.model.graph)

    @functools.cached_property
    def facts(self) -> FileFacts:
        """What is recorded of the file: all its bytes are read for it."""
        return FileFacts(
            path=self.path,
            sha256=sha256(self.path),
            inputs=tuple(Tensor(spec.name, spec.dtype, spec.shape) for spec in self.inputs),
            outputs=self.outputs,
            precision=self.precision,
            external_data={name: sha256(self.path.parent / name) for name in self.external_files},
            metadata=self.metadata,
            max_length=self.max_length,
        )

    def require_tensors(self, why: str, *, others: bool = True) -> None:
        """Refuse inputs and outputs that cannot be exchanged: sequences, maps, without a type, of 4 bits.

        Args:
            why: who takes only tensors ("an engine binds only tensors").
            others: take tensors of strings, and outputs that are sequences or maps.

        Raises:
            BadInputError: one is of another kind.
        """
        for spec in self.inputs:
            self._require(f"input {spec.name}", spec.dtype, why, others)
        for tensor in self.outputs:
            # Runtimes find out a type that is missing.
            if tensor.dtype != UNTYPED and not (others and tensor.dtype.startswith(_COMPARED)):
                self._require(f"output {tensor.name}", tensor.dtype, why, others)

    def _require(self, tensor: str, dtype: str, why: str, others: bool) -> None:
        known = BY_NAME.get(dtype)
        if known is not None and not known.is_foreign and (others or dtype != "string"):
            return
        kind = "has no element type" if dtype == UNTYPED else f"is of type {dtype}"
        if known is not None and known.is_foreign:
            why = "arrays of it cannot be exchanged with runtimes"
        cut = "cut the graph there with onnx.utils.extract_model"
        hint = f"give it a type, or {cut}" if dtype == UNTYPED else cut
        raise BadInputError(f"{self.path}: {tensor} {kind}; {why}", hint)

    def state(self) -> StateSpec:
        """Return the state of a decoding file.

        Raises:
            BadInputError: it has none.
        """
        return _state(self.metadata, self.path)

    def weight_bytes(self) -> int:
        """Return the size of the weights in bytes."""
        return sum(map(tensor_bytes, self.model.graph.initializer))


def _state(metadata: Mapping[str, str], path: Path) -> StateSpec:
    keys = {METADATA_KEY: "state", DIGEST_KEY: "source_sha256"}
    return StateSpec.from_metadata({key: metadata.get(name, "") for key, name in keys.items()}, str(path))


def open_model(path: str | Path) -> ModelFile:
    """Open an ONNX file that is to be run, compared or built.

    Raises:
        BadInputError: as `read_model`; or the ONNX checker refuses it, or a mixer operator's node has no function body.
    """
    file = read_model(path)
    if problem := usage_problem(file):
        raise BadInputError(*problem)
    return file


def usage_problem(file: ModelFile) -> tuple[str, str] | None:
    """Return why a file that can be read cannot be run, and a hint; None where nothing is against it."""
    if problem := checker_problem(file.model):
        return f"{file.path} is not a valid ONNX model: {problem}", "export it again"
    bodies = {(function.domain, function.name) for function in file.model.functions}
    for node, _ in file.operators:
        if (node.domain, node.op_type) not in bodies:
            return (
                f"{file.path}: node {node.name} ({node.op_type}) has no function body in the file",
                "export it again with hsm-export; tools that rewrite the graph may drop the bodies",
            )
    return None


def read_model(path: str | Path) -> ModelFile:
    """Open an ONNX file to look at it.

    Raises:
        BadInputError: it is missing, damaged, truncated or not ONNX; it claims more than it holds, or its functions
            expand without bounds; its metadata is malformed; or its external data is missing, cut, or outside of its
            folder.
    """
    path = require_file(path, "the model")
    model = parse(path)
    external = external_files(path, tensors_of(model))
    metadata = recorded(model)
    parsed = check(path, metadata)
    return ModelFile(
        path=path,
        model=model,
        metadata=metadata,
        precision=metadata.get("precision") or _commonest_precision(model.graph),
        inputs=input_specs(path, model, parsed.get("inputs")),
        outputs=tuple(map(tensor_of, model.graph.output)),
        config=parsed.get("config", {}),
        parts=parsed.get("parts", {}),
        example=_example_sizes(parsed.get("inputs", [])),
        relations=tuple(parsed.get("relations", ())),
        quantised=_quantised(model),
        external_files=external,
    )


def _commonest_precision(graph: onnx.GraphProto) -> str:
    """Return the floating-point type of most weights, without any that of the first input or output that has one."""
    sizes: Counter[str] = Counter()
    for tensor in graph.initializer:
        sizes[BY_ONNX[tensor.data_type].precision] += tensor_bytes(tensor)
    del sizes[""]
    borders = (BY_NAME.get(tensor_of(value).dtype) for value in (*graph.input, *graph.output))
    first = next((kind.precision for kind in borders if kind is not None and kind.is_float), "fp32")
    return max(sizes, key=lambda word: sizes[word], default=first)


def _quantised(model: onnx.ModelProto) -> str:
    """Return the type of most quantised weights, and by which operators they are used."""
    every = (model.graph.node, *(body.node for body in model.functions))
    used = {node.op_type for nodes in every for node in nodes_of(nodes)}
    ways = [name for name in _BLOCKWISE if name in used]
    ways += ["QDQ"] if {"QuantizeLinear", "DequantizeLinear"} & used else []
    ways += ["integer operators"] if any(name.startswith(_QUANTISED_MATHS) for name in used) else []
    ways += ["dynamic"] if any(name.startswith("DynamicQuantize") for name in used) else []
    if not ways:
        return ""
    sizes: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        kind = BY_ONNX[tensor.data_type]
        if 0 < kind.bits <= 8 and kind.name != "bool":
            sizes[kind.name] += tensor_bytes(tensor)
    bits = [item.i for node in model.graph.node for item in node.attribute if item.name == "bits"]
    if "MatMulNBits" in used and bits:
        sizes = Counter({f"int{bits[0]}": 1})
    return f"{max(sizes, key=lambda name: sizes[name], default='8 bits')}, {' and '.join(ways)}"


def _example_sizes(inputs: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    sizes = {}
    for item in inputs:
        for name, size in zip(item.get("shape", ()), item.get("example_shape") or (), strict=False):
            if isinstance(name, str) and type(size) is int and 0 < size < 2**31:
                sizes[name] = size
    return sizes
