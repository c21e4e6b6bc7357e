"""What `inspect` returns: one kind of result for each kind of file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..formats.engine_file import EngineFile
from ..formats.quantisation_plan import QuantisationPlan
from ..formats.result import Result
from ..formats.tensor import Tensor


@dataclass(frozen=True)
class InspectResult(Result):
    """What every kind of file has.

    Attributes:
        kind: "onnx", "engine", "checkpoint" or "configuration".
        path: the file or folder.
        bytes: its size on disk, with external data.
    """

    kind: str
    path: Path
    bytes: int


@dataclass(frozen=True)
class Cost:
    """Work of one run for one sequence.

    Attributes:
        length: tokens T of the sequence; None where the file fixes all sizes.
        flops: floating-point operations, a multiply-add as two.
        bytes: bytes that the nodes read and write one by one, weights included, nothing fused.
        flops_per_token, bytes_per_token: the same divided by T.
    """

    length: int | None
    flops: int
    bytes: int
    flops_per_token: float
    bytes_per_token: float

    @staticmethod
    def of(length: int | None, flops: int, bytes: int) -> Cost:
        """Return the work of a run, with the figures per token."""
        return Cost(length, flops, bytes, flops / (length or 1), bytes / (length or 1))


@dataclass(frozen=True)
class MixerRow:
    """One mixer or feed-forward network, or an `hsm` node outside of any.

    Attributes:
        name: the path of the module (`layers.3.mixer`), or the node's name.
        kind: what it is: the configuration's word where the file carries one, else the operators' names.
        operators: `hsm` operators in it, in order.
        details: shifts, heads H, head width d, experts E, active experts k and so on.
        parameters: number of weights of the module.
        costs: work of its nodes at each length.
    """

    name: str
    kind: str
    operators: tuple[str, ...]
    details: Mapping[str, Any]
    parameters: int
    costs: tuple[Cost, ...] = ()


@dataclass(frozen=True)
class FunctionBody:
    """The portable body of an operator.

    Attributes:
        domain, name: the operator.
        nodes: number of nodes in its body.
    """

    domain: str
    name: str
    nodes: int


@dataclass(frozen=True)
class StateRow:
    """One tensor of a decoding file's state; the graph's names are `past.` and `present.` and this one.

    Attributes:
        name: of the module and of what it keeps.
        rollback: how tokens are taken back: "position", "slots" or "snapshot".
        dtype: its element type.
        shape: sizes, and names of dynamic dimensions.
        spare: slots beyond those that are read, for "slots".
        constant_bytes: what a sequence takes whatever its length.
        bytes_per_token: what it takes for each of its tokens.
    """

    name: str
    rollback: str
    dtype: str
    shape: tuple[int | str, ...]
    spare: int
    constant_bytes: int
    bytes_per_token: int


@dataclass(frozen=True)
class StateTable:
    """The state of a decoding file: a sequence of n tokens takes constant_bytes + n * bytes_per_token.

    Attributes:
        tensors: its tensors.
        constant_bytes, bytes_per_token: their sums.
        capacity: tokens that a row may reach; None when the host chooses it, or no tensor grows.
        rollback: spare slots, in tokens, of the tensors that are taken back by slots.
        last_logits: the graph returns the logits of each row's last valid token only.
    """

    tensors: tuple[StateRow, ...]
    constant_bytes: int
    bytes_per_token: int
    capacity: int | None
    rollback: int
    last_logits: bool


@dataclass(frozen=True)
class OnnxResult(InspectResult):
    """An ONNX file.

    Attributes:
        sha256: SHA-256 of the file's bytes.
        producer: name and version of what wrote it.
        ir_version: ONNX file format version.
        opsets: version of each operator domain.
        precision: "fp32", "fp16", "bf16" or "fp64", the type of most weights that are not quantised.
        inputs, outputs: the graph's.
        operators: how often each operator occurs in the graph, most frequent first, as "domain::Name" outside of ONNX.
        functions: bodies that the file carries.
        parameters: number of weights.
        weight_bytes: their size, by element type.
        external_data: files that hold weights.
        mixers: the mixers, feed-forward networks and other `hsm` nodes.
        costs: work of one run for one sequence at several lengths.
        formulas: floating-point operations per token of each `hsm` operator in the file: D width, H heads, d and f head
            width, k active experts, T tokens.
        uncounted: operators whose work is not in `costs`, and how many of each.
        metadata: what the exporter recorded, without the prefix `hsm_export.`.
        state: what a decoding file carries from call to call; None for other files.
        quantised: the type of quantised weights and how they are used, such as "int8, QDQ"; "" without any.
        problem: why the file cannot be run as it is; "" where nothing is against it.
        quantisation: the plan that a file of `quantize` carries: the form and the bits of each weight; None for others.
    """

    sha256: str
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    precision: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: Mapping[str, int]
    functions: tuple[FunctionBody, ...]
    parameters: int
    weight_bytes: Mapping[str, int]
    external_data: tuple[str, ...]
    mixers: tuple[MixerRow, ...]
    costs: tuple[Cost, ...]
    formulas: Mapping[str, str]
    uncounted: Mapping[str, int]
    metadata: Mapping[str, str]
    state: StateTable | None = None
    quantised: str = ""
    problem: str = ""
    quantisation: QuantisationPlan | None = None


@dataclass(frozen=True)
class EngineResult(InspectResult):
    """An engine, as its side file describes it; deserialising the engine itself needs a GPU's driver.

    Attributes:
        side_file: the JSON file beside the engine.
        intact: the engine's size and SHA-256 are those that the side file recorded.
        engine: what the side file says.
        onnx: the ONNX file that it was built from, where that still lies beside the engine.
        state: what an engine of a decoding file carries from call to call; None for others.
    """

    side_file: Path
    intact: bool
    engine: EngineFile
    onnx: OnnxResult | None
    state: StateTable | None = None


@dataclass(frozen=True)
class CheckpointResult(InspectResult):
    """A PyTorch checkpoint.

    Attributes:
        fingerprint: SHA-256 of configuration and weights, as exported files carry it.
        config: the model's configuration, as JSON data.
        parameters: number of weights.
        weight_bytes: their size, by element type.
        mixers: mixers and feed-forward networks.
        metadata: what was recorded beside the configuration.
        costs: work of one run for one sequence at several lengths, counted from the configuration.
        uncounted: kinds of mixers whose own work is not in `costs`, and how many of each.
    """

    fingerprint: str
    config: Mapping[str, Any]
    parameters: int
    weight_bytes: Mapping[str, int]
    mixers: tuple[MixerRow, ...]
    metadata: Mapping[str, str]
    costs: tuple[Cost, ...] = ()
    uncounted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfigResult(InspectResult):
    """A model that exists as a configuration only.

    Attributes:
        config: the configuration, as JSON data.
        parameters: number of weights that the model would have.
        mixers: mixers and feed-forward networks.
        costs: work of one run for one sequence at several lengths; bytes are those of the weights in float32.
        context: tokens before the sequence whose keys and values are in memory.
        memory_floats: by length, the numbers that an attention layer keeps, as SwitchHead's paper counts them.
        uncounted: kinds of mixers whose own work is not in `costs`, and how many of each.
    """

    config: Mapping[str, Any]
    parameters: int
    mixers: tuple[MixerRow, ...]
    costs: tuple[Cost, ...]
    context: int
    memory_floats: Mapping[int, int]
    uncounted: Mapping[str, int]
