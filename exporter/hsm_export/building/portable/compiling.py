"""Compile an ONNX network into an engine, and make sure that it holds the plugins that it ought to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

# TensorRT's bindings have no type stubs.
Trt = Any
Shapes = Mapping[str, Sequence[Sequence[int]]]

HARDWARE_COMPATIBILITY = {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}


class RefusedError(Exception):
    """TensorRT refused something; `kind` names the project's error class, `hint` says what to do about it."""

    def __init__(self, message: str, kind: str = "refused", hint: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.hint = hint


@dataclass(frozen=True)
class Settings:
    """How an engine is to be built; plain data, so that it travels as JSON.

    Attributes:
        product: "TensorRT" or "TensorRT-RTX", for messages.
        architectures: what TensorRT-RTX builds for, such as "sm86"; empty: the GPU of the machine.
        profiles: per profile and input its smallest, expected and largest shape.
        plugin_libraries: paths of the plugin libraries; none builds without plugins.
        plugin_layers: operator of every node that must become a plugin layer, by the node's name; one of another
            domain than hsm with its domain, "acme::DecayMix".
        strip_weights: leave the weights out.
        weight_streaming: let weights stream from the host.
        refit: let the weights be replaced later.
        version_compatible: let newer versions of TensorRT run the engine.
        hardware_compatibility: a key of HARDWARE_COMPATIBILITY; None binds the engine to the GPU that builds it.
        embed_plugins: put the plugin library into the engine.
        timing_cache: file that keeps measured times from one build to the next.
    """

    product: str
    architectures: Sequence[str] = ()
    profiles: Sequence[Shapes] = ()
    plugin_libraries: Sequence[str] = ()
    plugin_layers: Mapping[str, str] | None = None
    strip_weights: bool = False
    weight_streaming: bool = False
    refit: bool = False
    version_compatible: bool = False
    hardware_compatibility: str | None = None
    embed_plugins: bool = False
    timing_cache: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """Return the settings in a mapping, which may hold other things too."""
        return cls(**{field.name: data[field.name] for field in fields(cls) if field.name in data})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Compiled:
    """An engine.

    Attributes:
        engine: its bytes, as TensorRT's host memory.
        version: TensorRT's version.
        inputs: element type of every input, as TensorRT calls it ("int64", "float").
        outputs: the same of the outputs.
        layers: layers of the network before the builder fused them.
        plugin_layers: names of the layers that are plugins.
    """

    engine: Any
    version: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    layers: int
    plugin_layers: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return everything but the engine, as plain data."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "engine"}


class Log:
    """TensorRT's messages: warnings and errors are passed on; the first error is kept.

    Args:
        write: receives severity and text.
    """

    def __init__(self, write: Callable[[str, str], None]) -> None:
        self._write = write
        self.first_error: str | None = None

    def take(self, severity: str, message: str) -> None:
        """Receive one message."""
        message = message.strip()
        if severity in ("error", "internal_error"):
            self.first_error = self.first_error or message
        if severity not in ("info", "verbose"):
            self._write(severity, message)

    def logger(self, trt: Trt) -> Trt:
        """Return a TensorRT logger that writes here."""
        take = self.take

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Trt, message: str) -> None:
                take(severity.name.lower(), message)

        return Logger()


def compile_network(
    trt: Trt, network: bytes, location: str, settings: Settings, report: Callable[[str], None], log: Log
) -> Compiled:
    """Compile an ONNX network.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        network: the ONNX file's bytes.
        location: a path in the directory that its external data is relative to.
        settings: how to build.
        report: receives the name of each phase.
        log: receives TensorRT's messages.

    Raises:
        RefusedError: the parser or the builder refused the network, the plugin library does not load, or a node of
            ours did not become a plugin.
    """
    logger = log.logger(trt)
    if settings.plugin_libraries:
        report("loading the plugins")
        load_plugins(trt, settings, log)
    report("parsing the network")
    builder = trt.Builder(logger)
    definition, parser = parse(trt, logger, builder, network, location, settings, log)
    plugins = plugin_layers(trt, definition)
    if settings.plugin_libraries:
        check_plugin_layers(plugins, settings)
    report(f"compiling {definition.num_layers} layers for {', '.join(settings.architectures) or 'this GPU'}")
    config = configure(trt, builder, definition, settings)
    engine = builder.build_serialized_network(definition, config)
    del parser  # it owns the weights that the definition refers to
    if engine is None:
        raise RefusedError(
            f"{settings.product} could not build the network: {log.first_error or 'it does not say why'}"
        )
    if settings.timing_cache:
        save_timing_cache(config, Path(settings.timing_cache))
    return Compiled(engine, trt.__version__, *_tensors(definition), definition.num_layers, tuple(plugins))


def load_plugins(trt: Trt, settings: Settings, log: Log) -> None:
    """Register the plugins of the libraries; harmless when this process has them already.

    Raises:
        RefusedError: a library does not load, or no one has an operator that the network needs.
    """
    registry = trt.get_plugin_registry()
    wanted = set((settings.plugin_layers or {}).values())
    if not wanted or wanted - _registered(registry):
        for library in settings.plugin_libraries:
            try:
                registry.load_library(library)
            except (RuntimeError, TypeError) as error:
                raise _unloadable(trt, settings, str(error)) from error
    missing = sorted(wanted - _registered(registry))
    if missing:
        why = log.first_error or f"no plugin {', '.join(missing)} is registered"
        raise _unloadable(trt, settings, why)


def _registered(registry: Trt) -> set[str]:
    """Return the plugins' operators, as `plugin_layers` names them."""
    creators = [(creator.plugin_namespace, creator.name) for creator in registry.all_creators]
    return {name if namespace == "hsm" else f"{namespace}::{name}" for namespace, name in creators}


def _unloadable(trt: Trt, settings: Settings, why: str) -> RefusedError:
    return RefusedError(
        f"{settings.product} {trt.__version__} cannot use the plugins of {', '.join(settings.plugin_libraries)}: {why}",
        "missing",
        "build from the function bodies with --no-plugins, or reinstall hsm-export where nvcc is found",
    )


def parse(
    trt: Trt, logger: Trt, builder: Trt, network: bytes, location: str, settings: Settings, log: Log
) -> tuple[Trt, Trt]:
    """Parse an ONNX network; returns TensorRT's network and the parser, which must live as long.

    Raises:
        RefusedError: the parser does not take it; says which node.
    """
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    definition = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(definition, logger)
    parsed = parser.parse(network, location)
    if not parsed or parser.num_errors:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise RefusedError(_explain(settings.product, errors, log.first_error or ""))
    return definition, parser


def _explain(product: str, errors: Sequence[Trt], logged: str) -> str:
    first = f"{product}'s parser does not take the network"
    if not errors:
        return first
    error = errors[0]
    where = error.node_name() or f"number {error.node()}"
    more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
    # Of a plugin the parser says only that it failed; the plugin itself says why, to the log.
    why = logged.removeprefix(f"{where}: ") if logged.startswith(f"{where}: ") else error.desc().strip()
    return f"{first}: node {where}, operator {error.node_operator() or 'unknown'}: {why}{more}"


def plugin_layers(trt: Trt, definition: Trt) -> list[str]:
    """Return the names of a network's layers that are plugins, in order."""
    layers = map(definition.get_layer, range(definition.num_layers))
    return [layer.name for layer in layers if layer.type == trt.LayerType.PLUGIN_V3]


def check_plugin_layers(found: Sequence[str], settings: Settings) -> None:
    """Check that every node of ours became one plugin layer: TensorRT falls back to function bodies in silence.

    Raises:
        RefusedError: one did not, or there are more.
    """
    expected = settings.plugin_layers or {}
    lost = [name for name in expected if name not in found]
    if not lost and len(found) == len(expected):
        return
    if lost:
        names = ", ".join(f"{name} ({expected[name]})" for name in lost[:3])
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        what = f"{len(lost)} of {len(expected)} nodes did not become plugin layers: {names}{more}"
    else:
        what = f"{len(found)} layers are plugins, but the network has {len(expected)} nodes of operators with plugins"
    raise RefusedError(f"{settings.product} did not use the plugins as it should: {what}", hint="use --no-plugins")


def configure(trt: Trt, builder: Trt, definition: Trt, settings: Settings) -> Trt:
    """Return the builder's configuration.

    Raises:
        RefusedError: this version of TensorRT lacks an option or an architecture, or a profile does not fit.
    """
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # It is on by default, and would round every fp32 product to 10 bits.
    with contextlib.suppress(AttributeError):
        config.clear_flag(trt.BuilderFlag.TF32)
    _set_profiles(builder, definition, config, settings)
    _set_architectures(trt, config, settings)
    flags = {
        "REFIT": settings.refit,
        "STRIP_PLAN": settings.strip_weights,
        "WEIGHT_STREAMING": settings.weight_streaming,
        "VERSION_COMPATIBLE": settings.version_compatible,
    }
    for name in (name for name, wanted in flags.items() if wanted):
        config.set_flag(_option(trt, settings, trt.BuilderFlag, name))
    if settings.hardware_compatibility:
        name = HARDWARE_COMPATIBILITY[settings.hardware_compatibility]
        config.hardware_compatibility_level = _option(trt, settings, trt.HardwareCompatibilityLevel, name)
    if settings.embed_plugins:
        config.plugins_to_serialize = list(settings.plugin_libraries)
    if settings.timing_cache:
        _set_timing_cache(config, Path(settings.timing_cache), settings)
    return config


def _set_timing_cache(config: Trt, path: Path, settings: Settings) -> None:
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if not config.set_timing_cache(cache, False):
        raise RefusedError(
            f"the timing cache {path} is of another GPU or another version of {settings.product}",
            hint="name another file, or delete this one",
        )


def _option(trt: Trt, settings: Settings, options: Trt, name: str) -> Trt:
    if name not in options.__members__:
        raise RefusedError(f"{settings.product} {trt.__version__} has no option {name}", hint="install a newer one")
    return options.__members__[name]


def _set_profiles(builder: Trt, definition: Trt, config: Trt, settings: Settings) -> None:
    names = {definition.get_input(index).name for index in range(definition.num_inputs)}
    for index, shapes in enumerate(settings.profiles):
        profile = builder.create_optimization_profile()
        # The parser drops an input that nothing reads.
        for name in names & set(shapes):
            profile.set_shape(name, *(tuple(shape) for shape in shapes[name]))
        if config.add_optimization_profile(profile) < 0:
            raise RefusedError(f"{settings.product} does not take profile {index}", "refused", "check its sizes")


def _set_architectures(trt: Trt, config: Trt, settings: Settings) -> None:
    """Aim the build at architectures instead of at the GPU of this machine, which need not be there."""
    if not settings.architectures:
        return
    config.num_compute_capabilities = len(settings.architectures)
    known = trt.ComputeCapability.__members__
    for index, name in enumerate(settings.architectures):
        if name.upper() not in known:
            raise RefusedError(
                f"{settings.product} {trt.__version__} does not build for {name}", hint="install a newer one"
            )
        config.set_compute_capability(known[name.upper()], index)


def save_timing_cache(config: Trt, path: Path) -> None:
    """Write what this build measured, for the next one; the file appears whole or not at all."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.write_bytes(memoryview(cache.serialize()))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _tensors(definition: Trt) -> tuple[dict[str, str], dict[str, str]]:
    """Return the element types of what an engine binds, by name, as TensorRT calls them."""
    inputs = map(definition.get_input, range(definition.num_inputs))
    outputs = map(definition.get_output, range(definition.num_outputs))
    return (
        {tensor.name: tensor.dtype.name.lower() for tensor in inputs},
        {tensor.name: tensor.dtype.name.lower() for tensor in outputs},
    )
