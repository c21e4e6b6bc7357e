"""What a build returns, and the side file that travels with the engine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dtypes import ELEMENT_TYPES
from ..files import sha256
from ..formats.engine_file import EngineFacts, EngineFile, PluginUse, SourceFile, side_file_path
from ..formats.tensor import Tensor

if TYPE_CHECKING:
    from .plan import Plan

# TensorRT's names of element types, in the field's usual spelling.
_DTYPES = {item.tensorrt: item.name for item in ELEMENT_TYPES if item.tensorrt}


class BuildResult(EngineFacts, frozen=True, kw_only=True):
    """An engine that was built.

    Attributes:
        engine: the engine file.
        side_file: the JSON file beside it that describes it.
    """

    engine: Path
    side_file: Path


def describe(plan: Plan, engine: Path, written: Path, facts: Mapping[str, Any], **rest: Any) -> BuildResult:
    """Return the result of a build.

    Args:
        plan: what was built.
        engine: where the engine will be.
        written: where its bytes are now.
        facts: what only the builder knows, as `Compiled.facts` and the builder's process tell it.
        rest: build_seconds, warnings, gpu, numbers.
    """
    options = plan.options
    return BuildResult(
        engine=engine,
        side_file=side_file_path(engine),
        target=plan.target,
        target_version=facts["version"],
        architectures=plan.architectures,
        precision=plan.source.precision,
        inputs=_bound(plan.source.inputs, facts["inputs"]),
        outputs=_bound(plan.source.outputs, facts["outputs"]),
        profiles=plan.profiles,
        strip_weights=options.strip_weights,
        weight_streaming=options.weight_streaming,
        refit=options.refit,
        source=SourceFile(plan.source.path.name, plan.source.sha256, dict(plan.source.external_data)),
        engine_bytes=written.stat().st_size,
        engine_sha256=sha256(written),
        layers=facts["layers"],
        peak_memory_bytes=facts.get("peak_memory_bytes"),
        model=dict(plan.source.metadata),
        hsm_export_version=version("hsm-export"),
        plugins=_plugin_use(plan),
        experimental=plan.experimental,
        version_compatible=options.version_compatible,
        hardware_compatibility=options.hardware_compatibility,
        **rest,
    )


def _plugin_use(plan: Plan) -> PluginUse | None:
    if not plan.libraries:
        return None
    first, *others = plan.libraries
    further = {library.name: sha256(library) for library in others}
    return PluginUse(first.name, sha256(first), plan.options.embed_plugins, dict(plan.nodes), further)


def _bound(tensors: tuple[Tensor, ...], types: Mapping[str, str]) -> tuple[Tensor, ...]:
    """The tensors that the engine binds, with the element types that the builder gave them."""
    return tuple(
        Tensor(tensor.name, _DTYPES.get(types[tensor.name], types[tensor.name]), tensor.shape)
        for tensor in tensors
        if tensor.name in types
    )


def write_side_file(result: BuildResult) -> None:
    """Write the side file of an engine: the result, and no directories of this machine."""
    facts = {name: getattr(result, name) for name in EngineFacts.__struct_fields__}
    EngineFile(engine=result.engine.name, **facts).write(result.side_file)
