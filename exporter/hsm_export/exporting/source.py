"""What is exported: a checkpoint, a zoo model, or any module of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..dtypes import BY_NAME, BY_PRECISION
from ..errors import BadInputError, UsageError
from ..torch_model.torch_source import module_sha256
from ..torch_model.user_module import copied, unwrapped, with_computed_weights
from .inputs import BATCH, LENGTH, Arguments, TraceInput, bind

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hsm_models.config import ModelConfig

    from ..formats.state_spec import StateSpec

_EXAMPLE_BATCH = 2
_EXAMPLE_LENGTH = 9


@dataclass(frozen=True)
class Source:
    """A module with everything that its export needs.

    Attributes:
        name: what to call it in messages.
        module: a copy of the module in evaluation mode, in float32, for files in float64 in that; its parametrised
            weights are computed.
        arguments: how to call it.
        output_names: names of the outputs in the file; None lets the exporter choose.
        task: "language_model", "sequence_classifier", or "" for a module that does not say.
        config: JSON of the model's configuration, "" for the user's own module.
        max_length: tokens that a language model of the user's own reads at most; 0 means any number.
        sha256: SHA-256 of the weights and the configuration.
        state: what a decoding step carries from call to call; None for other modules.
        runs: the inputs of the runs that check the file; None derives them from the examples.
        precision: what the file is to be: "fp32", "fp16", "bf16" or "fp64".
        runs_at: returns such runs with other sizes of the dynamic dimensions; None derives them from the examples.
    """

    name: str
    module: nn.Module
    arguments: Arguments
    output_names: tuple[str, ...] | None
    task: str
    config: str
    sha256: str
    state: StateSpec | None = None
    runs: tuple[tuple[Tensor, ...], ...] | None = None
    max_length: int = 0
    precision: str = "fp32"
    runs_at: Callable[[Mapping[str, int]], tuple[tuple[Tensor, ...], ...]] | None = None


def resolve(
    source: str | Path | nn.Module,
    example_inputs: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    *,
    decode: bool = False,
    precision: str | None = None,
    lengths: bool = False,
) -> Source:
    """Load what `source` names and find out how to call it.

    A language model of the user's own is called with tokens unless there are example inputs.

    Args:
        source, example_inputs, input_names, output_names, dynamic: as for `export`.
        decode: the module shall decode.
        precision: as for `export`.
        lengths: a classifier of ours shall take `lengths`.

    Raises:
        CheckpointError, ConfigError: a damaged or hostile checkpoint.
        BadInputError: a quantised module, one of several types, or one that is not on the CPU.
        UsageError: a user's module without example inputs, or examples that do not fit it.
    """
    import torch

    from hsm_models.config import ModelConfig

    if isinstance(source, (str, Path)):
        if example_inputs is not None:
            raise UsageError("example inputs are for a module; a checkpoint brings its own")
        module, name, sha256 = _load(source)
    elif isinstance(source, torch.nn.Module):
        module = unwrapped(source)
        name, sha256 = type(module).__name__, ""
    else:
        raise UsageError(f"cannot export a {type(source).__name__}", "pass a checkpoint's path or an nn.Module")
    module = copied(module)
    original, own = module, _own_precision(module, name)
    precision = precision or own
    if own != "fp32" or precision == "fp64":
        module = copied(module, torch.float64 if precision == "fp64" else torch.float32)
    module = with_computed_weights(module)
    names = None if output_names is None else tuple(output_names)
    if lengths:
        _take_lengths(module, name)
    config = getattr(module, "config", None)
    task: str
    longest = 0
    if isinstance(config, ModelConfig):
        arguments = _our_arguments(module, config, example_inputs, input_names, dynamic)
        text, task, names = config.to_json(indent=None), config.task, names or ("logits",)
    elif example_inputs is None:
        arguments, longest = _language_model(module, name, decode, input_names, dynamic)
        text, task, names = "", "language_model", names or ("logits",)
    else:
        arguments = bind(module, example_inputs, input_names, dynamic)
        text, task = "", ""
    sha256 = sha256 or module_sha256(original, text)
    arguments = replace(arguments, inputs=_in_types(arguments.inputs, own, precision))
    return Source(name, module, arguments, names, task, text, sha256, max_length=longest, precision=precision)


def _in_types(inputs: tuple[TraceInput, ...], own: str, precision: str) -> tuple[TraceInput, ...]:
    """Return the inputs with examples in the type that the module is traced in, where that is not its own."""
    import torch

    wide, narrow = torch.float64, (torch.float16, torch.bfloat16)
    result = []
    for spec in inputs:
        example = spec.example
        if precision == "fp64" and example.is_floating_point():
            example = example.to(wide)
        elif example.dtype in narrow or (own == "fp64" and example.dtype == wide):
            example = example.to(torch.float32)
        result.append(replace(spec, example=example))
    return tuple(result)


def _take_lengths(module: nn.Module, name: str) -> None:
    """Let a classifier of ours take `lengths`, which its weights know nothing of.

    Raises:
        UsageError: it is another model.
    """
    from hsm_models.config import ModelConfig

    config = getattr(module, "config", None)
    if not isinstance(config, ModelConfig) or config.task != "sequence_classifier" or config.input == "image":
        raise UsageError(f"{name} is no classifier of sequences, which alone takes lengths", "leave out --lengths")
    cast(Any, module).config = replace(config, masked=True)


def _language_model(
    module: nn.Module,
    name: str,
    decode: bool,
    input_names: Sequence[str] | None,
    dynamic: Mapping[str, Mapping[int, str]] | None,
) -> tuple[Arguments, int]:
    """Describe how a language model of the user's own is called, and return the most tokens that it reads."""
    import torch

    from hsm_models.decoding import decodable

    from .decoder_check import decoder_of, vocabulary

    try:
        decoder = decodable(module)
        tokens = vocabulary(module, name)
    except (TypeError, BadInputError) as error:
        if decode:
            decoder_of(module)
            raise
        raise UsageError(
            f"exporting a {name} needs example inputs",
            "call export(module, (x,), path) with tensors that forward takes",
        ) from error
    longest = int(getattr(decoder, "max_length", 0) or 0)
    length = min(_EXAMPLE_LENGTH, longest or _EXAMPLE_LENGTH)
    example = torch.randint(0, tokens, (_EXAMPLE_BATCH, length), generator=torch.Generator().manual_seed(0))
    arguments = bind(module, (example,), input_names or ("tokens",), dynamic)
    inputs = tuple(replace(spec, low=0, high=tokens - 1) for spec in arguments.inputs)
    return replace(arguments, inputs=inputs), longest


def _load(source: str | Path) -> tuple[nn.Module, str, str]:
    """Load a checkpoint or call a factory; return the module, its name and its fingerprint, "" for a factory's."""
    from ..torch_model.module_file import is_factory, make_module

    if is_factory(source):
        return make_module(source), str(source), ""
    from hsm_models.checkpoint import fingerprint, load_checkpoint
    from hsm_models.checkpoint import resolve as locate

    path = locate(source)
    return load_checkpoint(path), str(source), fingerprint(path)


def _our_arguments(
    module: nn.Module,
    config: ModelConfig,
    example_inputs: Any,
    input_names: Sequence[str] | None,
    dynamic: Mapping[str, Mapping[int, str]] | None,
) -> Arguments:
    """Describe the arguments of one of our own models, whose configuration says how to call it."""
    examples = _examples(config)
    if config.max_length == 1 and dynamic is None:
        dynamic = {config.input: {0: BATCH}}  # a length that can only be 1 is not dynamic
    given = tuple(examples.values()) if example_inputs is None else example_inputs
    arguments = bind(module, given, tuple(input_names or examples), dynamic)
    inputs = tuple(_bounded(spec, name, config) for spec, name in zip(arguments.inputs, examples, strict=True))
    return replace(arguments, inputs=inputs)


def _examples(config: ModelConfig) -> dict[str, Tensor]:
    """Make example inputs, the same in every run, in the order of `forward`."""
    import torch

    generator = torch.Generator().manual_seed(0)
    length = min(_EXAMPLE_LENGTH, config.max_length) if config.max_length else _EXAMPLE_LENGTH
    if config.input == "image":
        assert config.image is not None
        size = (_EXAMPLE_BATCH, config.image.channels, config.image.size, config.image.size)
        return {"image": torch.randn(size, generator=generator)}
    shape = (_EXAMPLE_BATCH, length)
    examples: dict[str, Tensor] = {config.input: torch.randint(0, config.vocab_size, shape, generator=generator)}
    if config.masked:
        examples["lengths"] = torch.tensor([length, max(1, length - 2)])
    return examples


def _bounded(spec: TraceInput, kind: str, config: ModelConfig) -> TraceInput:
    """Give an input of ours the bounds that its configuration states."""
    if kind == "lengths":
        return replace(spec, low=1, high=None, counts=LENGTH)
    if kind == "image":
        return spec
    return replace(spec, low=0, high=config.vocab_size - 1)


def _own_precision(module: nn.Module, name: str) -> str:
    """Return the precision of a module's parameters; that of the narrower ones where some are float32.

    Raises:
        BadInputError: it is quantised, its parameters live on another device, or some are float64 and others are not.
    """
    import torch

    for path, part in module.named_modules():
        if "quantized" in type(part).__module__ or type(part).__name__ == "FakeQuantize":
            raise _quantised(name, path or type(part).__name__)
    for path, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_quantized:
            raise _quantised(name, path)
        if value.layout != torch.strided:
            raise BadInputError(
                f"{path} of {name} is sparse, which ONNX files have no type for", "make it dense: to_dense()"
            )
    found: dict[str, str] = {}
    for path, parameter in module.named_parameters():
        dtype = str(parameter.dtype).removeprefix("torch.")
        if parameter.is_floating_point():
            if dtype not in BY_NAME or not BY_NAME[dtype].is_float:
                raise BadInputError(
                    f"parameter {path} of {name} is {dtype}, in which no file can compute",
                    "call module.float() first and choose the precision of the file with `precision`",
                )
            found.setdefault(BY_NAME[dtype].precision, path)
        if parameter.device.type != "cpu":
            raise BadInputError(f"parameter {path} of {name} is on {parameter.device}", "call module.cpu() first")
    kinds = [kind for kind in found if kind != "fp32"]
    if len(kinds) > 1 or (kinds == ["fp64"] and len(found) > 1):
        listed = ", ".join(f"{path} {BY_PRECISION[kind].name}" for kind, path in found.items())
        raise BadInputError(
            f"the parameters of {name} have several types: {listed}",
            "call module.float() first and choose the precision of the file with `precision`",
        )
    return kinds[0] if kinds else "fp32"


def _quantised(name: str, where: str) -> BadInputError:
    return BadInputError(f"{name} is quantised (at {where}), which is not supported", "export the float32 model")
