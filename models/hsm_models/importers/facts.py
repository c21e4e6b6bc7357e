"""Facts about a model that its weights do not show: who answered each, and what would differ with another answer.

Every importer asks for these facts here and nowhere else, so that none is ever assumed in silence.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .options import ImportOptions, OptionError

ASSUMED = "assumed"
WEIGHTS = "the weights"
OPTIONS = "the options"

EFFECTS = {
    "heads": "how the width is split into heads",
    "active": "how many experts a head uses for a token",
    "feed_forward_active": "how many experts of the feed-forward network a token uses",
    "positions": "how positions enter the attention",
    "rope_fraction": "which part of a head's channels RoPE turns",
    "rope_base": "the wavelengths of RoPE",
    "routing": "the gates of the chosen experts: sigmoid (not renormalised), or softmax, which is not supported",
    "topk_mode": "how the experts are chosen: all are compared (full), or approximately, which is not supported",
    "activation": "the nonlinearity of the feed-forward network",
    "output_norm": "output norm: attention outputs are multiplied by sqrt(N / d)",
    "query_scale": "the factor on the queries of un-normalised attention",
    "input": "what ids are: it is recorded and changes no number",
    "norm_eps": "eps of every LayerNorm",
    "pooling": "what is classified: the CLS token, or the mean over the other tokens",
    "cls_position": "whether the first row of the positions belongs to the CLS token",
    "image_size": "how many patches lie in a row",
    "layers": "how often the layers in the file are run",
    "window": "how many tokens a token sees at most; 0 is all before it",
    "weights_key": "which of the models in the file it is",
    "prefix": "nothing: what stands before every name of the model",
}


@dataclass(frozen=True)
class Fact:
    """One fact and its origin.

    Attributes:
        name: the option of `ImportOptions` that gives it, or the name of a training option.
        value: what the model was built with.
        origin: "the options", "the file", "the preset …", "the weights", or "assumed".
        effect: what would be another with another value.
    """

    name: str
    value: Any
    origin: str
    effect: str

    @property
    def assumed(self) -> bool:
        """Whether nobody gave the value."""
        return self.origin == ASSUMED


class Facts:
    """The answers to what an importer asks, from sources that may not contradict each other.

    Args:
        *sources: options, each with the name of who gave them.

    Raises:
        OptionError: two sources contradict each other.
    """

    def __init__(self, *sources: tuple[str, ImportOptions]) -> None:
        self._given: dict[str, tuple[Any, str]] = {}
        self._answers: dict[str, Fact] = {}
        for origin, options in sources:
            for item in dataclasses.fields(options):
                value = getattr(options, item.name)
                if value is not None:
                    self._give(item.name, value, origin)

    def _give(self, name: str, value: Any, origin: str) -> None:
        known, first = self._given.setdefault(name, (value, origin))
        if known != value:
            raise OptionError(f"{name} is {known} according to {first} and {value} according to {origin}")

    def given(self, name: str) -> Any:
        """Return what a source says of a fact, or None, without recording an answer."""
        return self._given.get(name, (None, ""))[0]

    def read(self, name: str, value: Any, contradiction: str) -> Any:
        """Record a fact that the weights show, and return it.

        Raises:
            OptionError: a source says otherwise; the message is `contradiction` after "NAME is VALUE, but ".
        """
        given = self.given(name)
        if given is not None and given != value:
            raise OptionError(f"{name} is {given!r}, but {contradiction}")
        return self._record(name, value, WEIGHTS)

    def answer(self, name: str, otherwise: Any, effect: str = "") -> Any:
        """Return a fact from the sources, or else assume it; either is recorded.

        Args:
            name: the option.
            otherwise: the value to assume.
            effect: what the value alters; `EFFECTS` by default.
        """
        value, origin = self._given.get(name, (otherwise, ASSUMED))
        return self._record(name, value, origin, effect)

    def demand(self, name: str, why: str) -> Any:
        """Return a fact that only the sources can give.

        Raises:
            OptionError: none does; the message is `why`.
        """
        if name not in self._given:
            raise OptionError(why)
        return self.answer(name, None)

    def note(self, name: str, value: Any, origin: str, effect: str = "") -> Any:
        """Record a fact that is no option, or whose origin is another, and return it."""
        return self._record(name, value, origin, effect)

    def answers(self) -> tuple[Fact, ...]:
        """Return every fact that was asked for, and the options that had no effect."""
        unused = [
            Fact(name, value, origin, "nothing: this file does not need it")
            for name, (value, origin) in self._given.items()
            if name not in self._answers and origin == OPTIONS
        ]
        return (*self._answers.values(), *unused)

    def _record(self, name: str, value: Any, origin: str, effect: str = "") -> Any:
        self._answers[name] = Fact(name, value, origin, effect or EFFECTS.get(name, ""))
        return value
