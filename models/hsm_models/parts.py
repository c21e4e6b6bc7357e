"""The parts of a layer, its mixer and its feed-forward network, of kinds that anyone may add.

A kind is a configuration and the module that it describes, joined in the module's own file:

    @dataclass(frozen=True)
    class MeanConfig(MixerConfig):
        bias: bool = True

    @mixer("acme_mean", MeanConfig)
    class Mean(Mixer):
        def __init__(self, width: int, config: MeanConfig) -> None: ...

A configuration in JSON names its kind. Whoever reads it has imported the file, or the package that holds the file is
installed with an entry point of the kind's name, which is loaded when the kind is asked for:

    [project.entry-points."hsm_models.mixers"]
    acme_mean = "acme.mean"

Nothing here imports PyTorch: that is done by the modules' files, once a kind is looked up.
"""

from __future__ import annotations

import importlib
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from .dataclass_json import build_dataclass, check_fields, fields_of
from .errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

    from torch import nn
    from typing_extensions import Self

    from .mixers import Mixer

    _M = TypeVar("_M", bound=Mixer)
    _N = TypeVar("_N", bound=nn.Module)


@dataclass(frozen=True)
class Place:
    """Where in a model a part stands.

    Attributes:
        width: the model's width D.
        index: index of the layer, from 0.
        where: what errors call the part, such as "config.layers[0].mixer".
    """

    width: int
    index: int = 0
    where: str = ""


class Kinds:
    """All kinds of one part: ours, those that were registered, and those that installed packages offer.

    Args:
        group: the group of entry points.
        home: the module whose import registers ours.
    """

    def __init__(self, group: str, home: str) -> None:
        self._group = group
        self._home = home
        self._known: dict[str, tuple[type[PartConfig], type[nn.Module]]] = {}

    def register(self, kind: str, config: type[PartConfig], module: type[nn.Module]) -> None:
        """Add a kind. A class that is defined again, as in a notebook, replaces itself.

        Raises:
            ValueError: no name of a kind, a configuration that is no dataclass of its own, or a kind that exists.
        """
        if not re.fullmatch(r"[a-z]\w*", kind):
            raise ValueError(f"{kind!r} cannot name a kind: use lower-case letters, digits and _")
        if "__dataclass_fields__" not in vars(config):
            raise ValueError(f"{config.__name__} must be a dataclass: decorate it with @dataclass(frozen=True)")
        for name, (known, _) in self._known.items():
            same = (known.__module__, known.__qualname__) == (config.__module__, config.__qualname__)
            if same != (name == kind):
                raise ValueError(
                    f"the kind {name!r} belongs to {known.__module__}.{known.__qualname__}: "
                    "give every kind a name and a configuration of its own"
                )
        config.kind = kind
        self._known[kind] = (config, module)

    def names(self) -> tuple[str, ...]:
        """Return the names of all kinds, ours first."""
        importlib.import_module(self._home)
        return tuple(dict.fromkeys([*self._known, *self._offered().names]))

    def config(self, kind: Any) -> type[PartConfig] | None:
        """Return the configuration of a kind, or None if nobody knows it.

        Raises:
            ConfigError: the package that offers it cannot be imported, or does not register it.
        """
        importlib.import_module(self._home)
        if not isinstance(kind, str):
            return None
        if kind not in self._known and kind in self._offered().names:
            self._load(self._offered()[kind])
        return self._known[kind][0] if kind in self._known else None

    def module(self, config: PartConfig) -> type[nn.Module] | None:
        """Return the module that a configuration describes, or None if its class is not registered."""
        known = self._known.get(getattr(config, "kind", ""))
        return known[1] if known is not None and known[0] is type(config) else None

    def _offered(self) -> EntryPoints:
        from importlib.metadata import entry_points

        return entry_points(group=self._group)

    def _load(self, entry: EntryPoint) -> None:
        source = f"the entry point {entry.name} = {entry.value!r} of {self._group}"
        try:
            entry.load()
        except Exception as error:  # anything can go wrong in a file of someone else's
            raise ConfigError(f"{source} cannot be imported: {error}") from error
        if entry.name not in self._known:
            raise ConfigError(f"{source} registers no kind of that name")


@dataclass(frozen=True)
class PartConfig:
    """What a part is made from, besides the model's width.

    Fields are of the types that `dataclass_json` reads.

    Attributes:
        kinds: all kinds of this part.
        kind: the kind's name, once it is registered.
    """

    kinds: ClassVar[Kinds]
    kind: ClassVar[str]

    def check(self, place: Place) -> None:
        """Refuse values that contradict each other or the model; a configuration of yours adds its own rules.

        Raises:
            ConfigError: they do, or have the wrong type; the message starts with `place.where`.
        """
        check_fields(self, place.where)

    def resolved(self, place: Place) -> Self:
        """Return the configuration with the defaults that depend on the model filled in."""
        return self

    def build(self, width: int, index: int = 0) -> Any:
        """Make the module, with fresh weights, for a layer of a model.

        Args:
            width: the model's width D.
            index: index of the layer, from 0.

        Raises:
            ConfigError: the class is not registered, or describes something that cannot be rebuilt.
        """
        return self.registered("the configuration")(width, self.resolved(Place(width, index)))

    def registered(self, where: str) -> type[nn.Module]:
        """Return the module's class.

        Raises:
            ConfigError: there is none.
        """
        module = self.kinds.module(self)
        if module is None:
            name = type(self).__name__
            raise ConfigError(f"{where} is a {name}, which nobody registered: decorate its module (hsm_models.parts)")
        return module

    @classmethod
    def given(cls, width: int, *fields: Any, **named: Any) -> Self:
        """Return the configuration that a module was given, checked and complete: one of these, or its fields.

        Raises:
            TypeError: there is no such field.
            ConfigError: as `check`.
        """
        whole = len(fields) == 1 and isinstance(fields[0], cls) and not named
        config = fields[0] if whole else cls(*fields, **named)
        place = Place(width, where=cls.kind)
        config.check(place)
        return config.resolved(place)

    def to_data(self) -> dict[str, Any]:
        """Return the configuration as JSON data: its fields and, last, its kind."""
        return {**fields_of(self), "kind": self.kind}

    @classmethod
    def from_data(cls, data: Any, where: str) -> PartConfig:
        """Build the configuration whose kind JSON data name.

        Raises:
            ConfigError: nobody knows the kind, or as `build_dataclass`.
        """
        kind = data.get("kind") if isinstance(data, dict) else None
        config = cls.kinds.config(kind)
        if config is None:
            names = ", ".join(cls.kinds.names())
            raise ConfigError(f"{where}.kind must be one of {names}, got {reprlib.repr(kind)}")
        return build_dataclass(config, {name: value for name, value in data.items() if name != "kind"}, where)

    def operations(self, width: int, length: int, context: int) -> int | None:
        """Return the operations between tokens: what is not a product of one token with a weight matrix.

        A multiply-add is two. None where the part does not say; `inspect` then says that it was not counted.

        Args:
            width: model width D.
            length: tokens T that are computed.
            context: tokens before them whose keys and values are in memory.
        """
        return None


@dataclass(frozen=True)
class MixerConfig(PartConfig):
    """The configuration of a sequence mixer."""

    kinds = Kinds("hsm_models.mixers", "hsm_models.mixers")

    @property
    def is_causal(self) -> bool:
        """Whether token t sees tokens <= t only, which language models need."""
        return True

    @property
    def leaves(self) -> str | None:
        """The name of what the mixer leaves for later layers of the same call, or None."""
        return None

    @property
    def takes(self) -> str | None:
        """The name of what the mixer needs of an earlier layer, or None."""
        return None


@dataclass(frozen=True)
class FeedForwardConfig(PartConfig):
    """The configuration of a feed-forward network, which treats every token alone."""

    kinds = Kinds("hsm_models.feed_forwards", "hsm_models.feed_forward")


def mixer(kind: str, config: type[MixerConfig]) -> Callable[[type[_M]], type[_M]]:
    """Register the decorated class, made by `(width, config)`, as the mixer that a configuration describes.

    Args:
        kind: the kind's name in JSON; start it with a name of your own.
        config: the configuration's class.

    Raises:
        ValueError: as `Kinds.register`.
    """

    def join(module: type[_M]) -> type[_M]:
        MixerConfig.kinds.register(kind, config, module)
        return module

    return join


def feed_forward(kind: str, config: type[FeedForwardConfig]) -> Callable[[type[_N]], type[_N]]:
    """Register the decorated class, made by `(width, config)`, as the network that a configuration describes.

    Args, Raises: as `mixer`.
    """

    def join(module: type[_N]) -> type[_N]:
        FeedForwardConfig.kinds.register(kind, config, module)
        return module

    return join
