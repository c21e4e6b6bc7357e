"""How an engine is built: what the command line, the function `build`, build kits and engines have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from ..errors import UsageError
from .document import Document
from .profile import Size

Target = Literal["tensorrt-rtx", "tensorrt"]


class EngineOptions(Document, frozen=True, kw_only=True):
    """What a builder may be told beside its target and the shapes.

    Attributes:
        plugins: compile `hsm` nodes to plugins (experimental for TensorRT-RTX) or from their bodies; None: plugins for
            TensorRT only.
        embed_plugins: put the plugin library into the engine; needs `version_compatible`.
        strip_weights: leave the weights out of the engine; needs a GPU.
        weight_streaming: let the engine stream weights from the host.
        refit: let the weights be replaced later; needs a GPU.
        version_compatible: let newer versions of TensorRT run the engine.
        hardware_compatibility: "ampere+" or "same-compute-capability": let other GPUs run the engine; None: only the
            one that builds.
        timing_cache: file that keeps measured times from one build to the next; made when missing.
    """

    plugins: bool | None = None
    embed_plugins: bool = False
    strip_weights: bool = False
    weight_streaming: bool = False
    refit: bool = False
    version_compatible: bool = False
    hardware_compatibility: str | None = None
    timing_cache: str | None = None

    def use_plugins(self, target: str) -> bool:
        """Whether nodes become plugins for this target."""
        return target == "tensorrt" if self.plugins is None else self.plugins


class BuildOptions(EngineOptions, frozen=True, kw_only=True):
    """Everything that may be said of a build.

    Attributes:
        target: "tensorrt-rtx" or "tensorrt".
        architectures: GPU architectures such as "sm86", in a sequence or separated by commas, for TensorRT-RTX only;
            None takes sm80, sm86, sm89 and sm120.
        profiles: sizes of the dynamic dimensions by name, each a number, "min:opt:max" or (min, opt, max); one mapping
            a profile. Dimensions left out take batch 1:1:8 and length 1:512:4096, or the model's own limit. A decoding
            file without any length gets two profiles, for single steps and for prompts.
    """

    target: Target = "tensorrt-rtx"
    architectures: str | Iterable[str] | None = None
    profiles: Sequence[Mapping[str, Size]] = ()

    @staticmethod
    def of(given: BuildOptions | None, choices: Mapping[str, Any]) -> BuildOptions:
        """Return the options that a caller gave as one object, or each by its name.

        Raises:
            UsageError: both ways at once, or there is no such option.
        """
        if given is not None and choices:
            raise UsageError("options and single choices contradict each other", "put all into BuildOptions")
        unknown = sorted(set(choices) - set(BuildOptions.__struct_fields__))
        if unknown:
            known = ", ".join(BuildOptions.__struct_fields__)
            raise UsageError(f"builds have no option {unknown[0]!r}", f"they have {known}")
        cache = choices.get("timing_cache")
        return given or BuildOptions(**{**choices, "timing_cache": None if cache is None else str(cache)})
