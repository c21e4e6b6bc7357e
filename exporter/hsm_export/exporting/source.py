"""What is exported: a checkpoint, a zoo model, or any module of the user's."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError, UsageError
from .inputs import BATCH, LENGTH, Arguments, TraceInput, bind

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hsm_models.config import ModelConfig

_EXAMPLE_BATCH = 2
_EXAMPLE_LENGTH = 9


@dataclass(frozen=True)
class Source:
    """A module with everything that its export needs.

    Attributes:
        name: what to call it in messages.
        module: the module, float32.
        arguments: how to call it.
        output_names: names of the outputs in the file; None lets the exporter choose.
        task: "language_model", "sequence_classifier", or "" for the user's own module.
        config: JSON of the model's configuration, "" for the user's own module.
        sha256: SHA-256 of the weights and the configuration.
    """

    name: str
    module: nn.Module
    arguments: Arguments
    output_names: tuple[str, ...] | None
    task: str
    config: str
    sha256: str


def resolve(
    source: str | Path | nn.Module,
    example_inputs: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
) -> Source:
    """Load what `source` names and find out how to call it.

    Raises:
        CheckpointError, ConfigError: a damaged or hostile checkpoint.
        BadInputError: a quantised module, or one that is not float32.
        UsageError: a user's module without example inputs, or examples that do not fit it.
    """
    import torch

    names = None if output_names is None else tuple(output_names)
    if isinstance(source, torch.nn.Module):
        resolved = _from_module(source, example_inputs, input_names, names, dynamic)
    elif isinstance(source, (str, Path)):
        if example_inputs is not None:
            raise UsageError("example inputs are for a module; a checkpoint brings its own")
        resolved = _from_checkpoint(source, input_names, names, dynamic)
    else:
        raise UsageError(f"cannot export a {type(source).__name__}", "pass a checkpoint's path or an nn.Module")
    _require_float32(resolved.module, resolved.name)
    return resolved


def _from_checkpoint(
    source: str | Path,
    input_names: Sequence[str] | None,
    output_names: tuple[str, ...] | None,
    dynamic: Mapping[str, Mapping[int, str]] | None,
) -> Source:
    from hsm_models.checkpoint import fingerprint, load_checkpoint
    from hsm_models.checkpoint import resolve as locate

    path = locate(source)
    module = load_checkpoint(path)
    described = _described(module, input_names, output_names, dynamic)
    return replace(described, name=str(source), sha256=fingerprint(path))


def _from_module(
    module: nn.Module,
    example_inputs: Any,
    input_names: Sequence[str] | None,
    output_names: tuple[str, ...] | None,
    dynamic: Mapping[str, Mapping[int, str]] | None,
) -> Source:
    from hsm_models.config import ModelConfig

    if example_inputs is None:
        if isinstance(getattr(module, "config", None), ModelConfig):
            return _described(module, input_names, output_names, dynamic)
        raise UsageError(
            f"exporting a {type(module).__name__} needs example inputs",
            "call export(module, (x,), path) with tensors that forward accepts",
        )
    arguments = bind(module, example_inputs, input_names, dynamic)
    name = type(module).__name__
    return Source(name, module, arguments, output_names, "", "", _module_sha256(module, ""))


def _described(
    module: nn.Module,
    input_names: Sequence[str] | None,
    output_names: tuple[str, ...] | None,
    dynamic: Mapping[str, Mapping[int, str]] | None,
) -> Source:
    """Describe one of our own models, whose configuration says how to call it."""
    config: ModelConfig = module.config  # type: ignore[assignment]
    text = config.to_json(indent=None)
    examples = _examples(config)
    if config.max_length == 1 and dynamic is None:
        dynamic = {config.input: {0: BATCH}}  # a length that can only be 1 is not dynamic
    arguments = bind(module, tuple(examples.values()), tuple(input_names or examples), dynamic)
    inputs = tuple(_bounded(spec, name, config) for spec, name in zip(arguments.inputs, examples, strict=True))
    arguments = Arguments(arguments.values, inputs)
    names = output_names or ("logits",)
    return Source(type(module).__name__, module, arguments, names, config.task, text, _module_sha256(module, text))


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
    examples = {config.input: torch.randint(0, config.vocab_size, shape, generator=generator)}
    if config.masked:
        examples["lengths"] = torch.tensor([length, max(1, length - 2)])
    return examples


def _bounded(spec: TraceInput, kind: str, config: ModelConfig) -> TraceInput:
    """Give an input of ours the bounds that its configuration states."""
    if kind == "lengths":
        return replace(spec, low=1, high=None)
    if kind == "image":
        return spec
    return replace(spec, low=0, high=config.vocab_size - 1)


def resized(arguments: Arguments, batch: int, length: int) -> list[Tensor]:
    """Return the examples with other sizes in their dynamic dimensions, by repetition or truncation.

    Args:
        arguments: what the module is called with.
        batch, length: what to add to the dimensions of these names; none gets below 1.
    """
    import torch

    change = {BATCH: batch, LENGTH: length}
    examples = []
    for spec in arguments.inputs:
        example = spec.example
        for dim, name in {**spec.dynamic, **spec.free}.items():
            size = max(1, example.shape[dim] + change.get(name, 0))
            example = example.index_select(dim, torch.arange(size) % example.shape[dim])
        examples.append(example.clamp(max=_longest(arguments) + length) if spec.name == "lengths" else example)
    return examples


def _longest(arguments: Arguments) -> int:
    return next(
        (spec.example.shape[dim] for spec in arguments.inputs for dim, name in spec.dynamic.items() if name == LENGTH),
        1,
    )


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for the block; each part gets its own mode back."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _module_sha256(module: nn.Module, config: str) -> str:
    """Hash the state dict (names, types, shapes, bytes) and the configuration."""
    import torch

    digest = hashlib.sha256(config.encode())
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, torch.Tensor) or tensor.is_quantized:
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _require_float32(module: nn.Module, name: str) -> None:
    """Refuse quantised modules, and those whose parameters already have another type."""
    import torch

    for path, part in module.named_modules():
        if "quantized" in type(part).__module__ or type(part).__name__ == "FakeQuantize":
            raise _quantised(name, path or type(part).__name__)
    for path, value in module.state_dict().items():
        if isinstance(value, torch.Tensor) and value.is_quantized:
            raise _quantised(name, path)
    for path, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise BadInputError(
                f"parameter {path} of {name} is {str(parameter.dtype).removeprefix('torch.')}, not float32",
                "call module.float() first and choose the precision of the file with `precision`",
            )


def _quantised(name: str, where: str) -> BadInputError:
    return BadInputError(f"{name} is quantised (at {where}), which is not supported", "export the float32 model")
