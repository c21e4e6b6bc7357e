"""Everything that is decided before a builder starts, so that a build here and one from a kit are the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..errors import BadInputError, UsageError
from ..formats.build_options import BuildOptions, EngineOptions, Target
from ..formats.profile import Profile
from ..native import tensorrt_plugin_path
from ..onnx_model.fusing import Fusion, fusion
from ..onnx_model.model_file import ENGINE_BINDS, FileFacts, ModelFile, open_model
from ..onnx_model.quantisation_record import plan_in
from . import targets
from .network import operators_by_type, plugin_nodes
from .options import check_options
from .portable.compiling import Settings
from .profiles import input_shapes, resolve_profiles


@dataclass(frozen=True)
class Plan:
    """A build that was checked and may begin.

    Attributes:
        source: the ONNX file.
        target: "tensorrt-rtx" or "tensorrt".
        architectures: GPU architectures; empty: the GPU of the machine that builds.
        profiles: sizes of the dynamic dimensions.
        options: the other options.
        libraries: the plugin libraries, ours first; none when bodies are compiled.
        nodes: operator of every node that becomes a plugin, by its name.
        notes: operators of others that are compiled from their bodies although plugins are wanted, and why.
    """

    source: FileFacts
    target: Target
    architectures: tuple[str, ...]
    profiles: tuple[Profile, ...]
    options: EngineOptions
    libraries: tuple[Path, ...]
    nodes: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def experimental(self) -> bool:
        """Whether the vendor does not support this kind of engine: TensorRT-RTX documents no plugins."""
        return bool(self.libraries) and self.target == "tensorrt-rtx"

    def settings(self) -> Settings:
        """Return what the builder is told."""
        options = msgspec.structs.asdict(self.options)
        cache = options.pop("timing_cache")
        return Settings.from_dict(
            {
                **options,
                "product": targets.PRODUCTS[self.target],
                "architectures": self.architectures,
                "profiles": [input_shapes(self.source, profile) for profile in self.profiles],
                "plugin_libraries": [str(library) for library in self.libraries],
                "plugin_layers": dict(self.nodes),
                "timing_cache": str(Path(cache).resolve()) if cache else None,
            }
        )


def make_plan(model: str | Path, options: BuildOptions) -> Plan:
    """Check what is wanted against the model and the target.

    Raises:
        UsageError: options that contradict each other or the model.
        BadInputError: the model is not a usable ONNX file.
        BuildRefusedError: the target cannot take the network.
        MissingDependencyError: plugins are wanted, and this installation has none.
    """
    target = options.target
    chosen = _choose_architectures(target, options.architectures)
    check_options(options, target)
    file = open_model(model)
    _refuse(file)
    resolved = resolve_profiles(file.facts, options.profiles)
    others = fusion(file.model, "tensorrt") if options.use_plugins(target) else Fusion()
    nodes = plugin_nodes(file.model, others.fused) if options.use_plugins(target) else {}
    if "sm75" in chosen:
        targets.check_architectures(chosen, operators_by_type(file.model, plugins=bool(nodes)))
    ours = [tensorrt_plugin_path()] if any("::" not in operator for operator in nodes.values()) else []
    return Plan(file.facts, target, chosen, resolved, options, (*ours, *others.libraries), nodes, others.notes)


def _refuse(file: ModelFile) -> None:
    """Refuse what no engine of ours takes: weights quantised by others, and borders that are no tensors of numbers.

    What `quantize --dialect qdq` writes is taken; other quantised files say nothing of how they are to be judged.
    """
    plan = plan_in(file)
    if file.quantised and (plan is None or plan.dialect != "qdq"):
        raise BadInputError(
            f"{file.path} is quantised ({file.quantised}); engines are built from models that are not",
            "export the model in fp32, fp16 or bf16, or quantise it by `hsm-export quantize --dialect qdq`",
        )
    file.require_tensors(ENGINE_BINDS, others=False)


def _choose_architectures(target: str, architectures: str | Iterable[str] | None) -> tuple[str, ...]:
    if target == "tensorrt-rtx":
        return targets.parse_architectures(targets.DEFAULT_ARCHITECTURES if architectures is None else architectures)
    if architectures is not None:
        raise UsageError(
            "TensorRT builds for the GPU of this machine, so --arch has no meaning with --target tensorrt",
            "leave --arch out, or use --target tensorrt-rtx",
        )
    return ()
