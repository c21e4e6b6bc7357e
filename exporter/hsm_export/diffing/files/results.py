"""What a diff of two ONNX files returns: which operators, weights, functions and properties are not the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ...comparison.result import ComparedOutput
from ...formats.result import Result


@dataclass(frozen=True)
class NodeChange(Result):
    """One operator that is not the same in both files.

    Attributes:
        kind: "added", "removed", "changed" (attributes, inputs or the operator itself), "moved" (same operator, other
            place in the order) or "renamed" (nothing but its name).
        node: its name in the new file; in the old one where it was removed.
        operator: such as "MatMul" or "acme::DecayMix", in the file that `node` is of.
        old_node: its name in the old file; None where it was added.
        details: what changed, a sentence each.
    """

    kind: str
    node: str
    operator: str
    old_node: str | None = None
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightChange(Result):
    """One initialiser that is not the same in both files.

    Attributes:
        kind: "added", "removed", "changed" or "renamed" (equal values).
        name: in the new file; in the old one where it was removed.
        old_name: in the old file; None where it was added.
        old_type, new_type: such as "float32"; "" where there is none.
        old_shape, new_shape: sizes.
        relative_l2: |new - old| / |old|; None where the shapes differ or the values are no numbers.
        max_abs: largest difference of an element; None likewise.
        note: what was recognised: "transposed", "experts 3 and 5 swapped", "scaled by 2", "rounded to float16".
    """

    kind: str
    name: str
    old_name: str | None
    old_type: str = ""
    new_type: str = ""
    old_shape: tuple[int, ...] = ()
    new_shape: tuple[int, ...] = ()
    relative_l2: float | None = None
    max_abs: float | None = None
    note: str = ""


@dataclass(frozen=True)
class FunctionChange(Result):
    """One model-local function that is not the same in both files.

    Attributes:
        kind: "added", "removed" or "changed".
        name: such as "acme::DecayMix".
        nodes: what changed in its body.
        details: what else changed.
    """

    kind: str
    name: str
    nodes: tuple[NodeChange, ...] = ()
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class PropertyChange(Result):
    """An input, an output, an operator-set version, metadata or a property of the file.

    Attributes:
        what: "input", "output", "name of input", "name of output", "name of graph", "opset", "metadata" or "file".
        name: which.
        old, new: text; None where there is none.
    """

    what: str
    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class StructureDiff(Result):
    """The outcome of a diff of two files.

    Attributes:
        schema: version of the JSON form.
        old, new: the files.
        old_bytes, new_bytes: their sizes, external data included.
        old_nodes, new_nodes: operators of the main graph.
        nodes, weights, functions, properties: what is not the same.
        equal_weights: how many initialisers are the same to the bit.
        outputs: how far apart the outputs are, per runtime of the new file and case; () where that was not measured.
        incomparable: why the outputs were not compared; None when they were, or nobody asked.
        notes: what a reader should know.
        seconds: time that all took.
    """

    old: str
    new: str
    old_bytes: int
    new_bytes: int
    old_nodes: int
    new_nodes: int
    nodes: tuple[NodeChange, ...]
    weights: tuple[WeightChange, ...]
    functions: tuple[FunctionChange, ...]
    properties: tuple[PropertyChange, ...]
    equal_weights: int = 0
    outputs: tuple[ComparedOutput, ...] = ()
    incomparable: str | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    schema: int = 1

    @property
    def identical(self) -> bool:
        """Whether nothing at all was found."""
        return not (self.nodes or self.weights or self.functions or self.properties)

    @property
    def only_names(self) -> bool:
        """Whether the files compute the same with the same weights, and only names differ."""
        kinds = {change.kind for change in self.nodes} | {change.kind for change in self.weights}
        named = kinds <= {"renamed"} and not self.functions and all(map(_is_name, self.properties))
        return named and not self.identical

    @property
    def passed(self) -> bool:
        """Whether outputs were compared, or nobody asked, and none is further off than it may be."""
        return not self.incomparable and all(output.passed for output in self.outputs)

    @property
    def summary(self) -> str:
        """One line: what changed, and whether the outputs did."""
        if self.identical:
            changed = "nothing changed"
        elif self.only_names:
            changed = "only names changed"
        else:
            changed = "; ".join(self._counts())
        return f"{self.old} → {self.new}: {changed}{self._numbers()}"

    def _counts(self) -> Iterator[str]:
        yield from _counted("operator", Counter(change.kind for change in self.nodes))
        yield from _counted("weight", Counter(change.kind for change in self.weights))
        yield from _counted("function", Counter(change.kind for change in self.functions))
        yield from (
            f"{count} {_plural(what, count)} changed"
            for what, count in Counter(change.what for change in self.properties).items()
        )

    def _numbers(self) -> str:
        if not self.outputs:
            return f"; outputs not compared: {self.incomparable}" if self.incomparable else ""
        worst = max(self.outputs, key=lambda output: output.severity)
        if self.passed:
            return "; the outputs are the same within rounding"
        return f"; output {worst.output} differs in {worst.runtime} ({worst.reason})"


def _is_name(change: PropertyChange) -> bool:
    """Whether a change is that of a name."""
    return change.what.startswith("name of ")


def _counted(noun: str, kinds: Counter[str]) -> Iterator[str]:
    for kind in ("added", "removed", "changed", "moved", "renamed"):
        if kinds[kind]:
            yield f"{kinds[kind]} {_plural(noun, kinds[kind])} {kind}"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 or noun == "metadata" else f"{noun}s"
