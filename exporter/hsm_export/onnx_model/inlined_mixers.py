"""What a file without functions says of its mixers: which they were, and where their values are now.

`export --portable` writes it, so that `validate` and `diff` can watch and force choices of experts, and name mixers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hsm_operators import Operator, find

from ..errors import BadInputError
from ..formats.document import Document, converted, parsed

if TYPE_CHECKING:
    import onnx

METADATA = "hsm_export.portable"
# Between the name of a mixer and those of its nodes.
SEPARATOR = "/"
_LONGEST = 1 << 22


@dataclass(frozen=True)
class Choice:
    """A choice that a mixer makes.

    Attributes:
        logits: name of the value whose largest numbers on the last axis are chosen.
        active: how many.
        rank: number of dimensions of the logits.
    """

    logits: str
    active: int
    rank: int


class InlinedMixer(Document, frozen=True):
    """A mixer whose body stands in its place.

    Attributes:
        name: the name that its node had, and the first part of its nodes' names.
        operator: which it was, domain and name, such as "acme::DecayMix".
        inputs, outputs: names of the values that it read and wrote.
        attributes: its numbers.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @property
    def definition(self) -> Operator | None:
        """The operator's specification; None where nobody registered it."""
        domain, _, name = self.operator.partition("::")
        return find(domain, name)

    @property
    def routing(self) -> Choice | None:
        """The choice that it makes; None when it makes none."""
        operator = self.definition
        if operator is None or operator.routing is None:
            return None
        names = [port.name for port in operator.inputs]
        index = names.index(operator.routing.logits)
        rank = len(operator.inputs[index].shape)
        return Choice(self.inputs[index], int(self.attributes[operator.routing.active]), rank)

    def owns(self, node: onnx.NodeProto) -> bool:
        """Return whether a node is part of its body."""
        return node.name.startswith(f"{self.name}{SEPARATOR}")


def inlined_mixers(model: onnx.ModelProto) -> tuple[InlinedMixer, ...]:
    """Return the mixers that a file says it had, in the order in which they were called.

    Raises:
        BadInputError: what it says is malformed.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA), "")
    if not text:
        return ()
    where, again = f"the metadata {METADATA}", "export the file again"
    if len(text) > _LONGEST:
        raise BadInputError(f"{where} is not valid: it has {len(text):,} characters", again)
    return converted(parsed(text, where, again), tuple[InlinedMixer, ...], where, "valid", again)
