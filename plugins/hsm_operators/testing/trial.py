"""One call under test, with numbers for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .subject import Array, Attributes, Subject


@dataclass(frozen=True)
class Trial:
    """An operator with sizes, attributes and per-row integers.

    Attributes:
        subject: the operator.
        sizes: by the names of the signature; the small case has those that are left out, and the rules those that
            follow from others.
        attributes: its attributes.
        rows: int64 inputs, such as positions and lengths, where the operator has them; drawn where they are left out.
        fill: for inputs of this name, a constant in place of random numbers.
    """

    subject: Subject
    sizes: Mapping[str, int]
    attributes: Attributes
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    fill: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [*self.sizes.items(), *self.attributes.items(), *self.rows.items(), *self.fill.items()]
        return " ".join(f"{key}={str(value).replace(' ', '')}" for key, value in parts)

    def __repr__(self) -> str:
        return f"{self.name} {self}"

    @property
    def name(self) -> str:
        """The operator's name."""
        return self.subject.operator.name

    def inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        """Return fresh float64 inputs; a carried state is the state of some earlier tokens."""
        sizes = self.subject.sizes(self.sizes, self.attributes)
        result = self.subject.drawn(sizes, self.attributes, self.rows, rng)
        return result | {name: np.full_like(result[name], value) for name, value in self.fill.items()}

    def poisoned(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return inputs with NaN where the operator must not look: beyond a row's length, in unwritten slots."""
        subject = self.subject
        result = {name: array.copy() for name, array in inputs.items()}
        lengths = result[subject.lengths.name] if subject.lengths else ()
        for row, length in enumerate(lengths):
            for port in subject.operator.inputs:
                if subject.is_token(port) and result[port.name].dtype == np.float64:
                    result[port.name][subject.tokens(port, result[port.name], row, int(length))] = np.nan
        for port in subject.positions:
            for row, position in enumerate(result[port.name]):
                for state in subject.operator.states:
                    result[state.past][row, int(position) :] = np.nan
        return result


def trial_of(subject: Subject, batch: int = 2, length: int = 7, /, **sizes: int) -> Trial:
    """Return a call with unequal lengths: the most, half of it and the least; other sizes are the small case's."""
    attributes = subject.attributes
    wanted = {**sizes, subject.batch: batch, subject.time: length}
    complete = subject.sizes({name: size for name, size in wanted.items() if name}, attributes)
    rows: dict[str, Sequence[int]] = {}
    for port in subject.operator.inputs:
        if port.rows is not None and port.shape == (subject.batch,):
            least, most = subject.row_range(port, complete, attributes)
            rows[port.name] = [(most, max(most // 2, least), least)[row % 3] for row in range(batch)]
    return Trial(subject, complete, attributes, rows)


def with_rows(trial: Trial, **rows: Any) -> Trial:
    """Return a trial with other per-row integers; those that the operator does not have are left out."""
    known = {port.name for port in trial.subject.operator.inputs}
    return Trial(
        trial.subject,
        trial.sizes,
        trial.attributes,
        {**trial.rows, **{name: value for name, value in rows.items() if name in known}},
        trial.fill,
    )
