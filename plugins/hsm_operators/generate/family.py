"""A family: the operators that one folder specifies, with the kernels that stand beside the specification."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from ..case import Case
from ..operator import Operator
from .cpp import require_identifier

CPU, CUDA, NAIVE = "cpu.cc", "cuda.cu", "naive.cc"


@dataclass(frozen=True)
class Family:
    """The operators of one folder.

    Attributes:
        name: the folder's name, by which C++ includes its headers.
        folder: where `cpu.cc`, `cuda.cu` and `naive.cc` are looked for: each has the kernels of all operators.
        operators: in the order of the specification.
        typical: calls that reports describe.
        small: one call of each operator for tests.
    """

    name: str
    folder: Path
    operators: tuple[Operator, ...]
    typical: tuple[Case, ...] = ()
    small: tuple[Case, ...] = ()

    @classmethod
    def of(cls, spec: ModuleType, cases: ModuleType | None = None) -> Family:
        """Return the family of a module `spec`, from its `OPERATORS`, its folder, and its module `cases`."""
        folder = Path(str(spec.__file__)).resolve().parent
        own = cls(folder.name, folder, tuple(spec.OPERATORS))
        return replace(own, typical=cases.TYPICAL, small=cases.SMALL) if cases else own

    def has(self, kernels: str) -> bool:
        """Whether it has kernels of a kind: CPU, CUDA or NAIVE."""
        return (self.folder / kernels).is_file()

    def structures(self) -> dict[str, tuple[Operator, ...]]:
        """Return the operators that share an argument structure, by the structure's name."""
        names = dict.fromkeys(operator.arguments for operator in self.operators)
        return {name: tuple(o for o in self.operators if o.arguments == name) for name in names}

    def kernels(self) -> dict[str, str]:
        """Return the argument structure of each kernel, by the kernel's name."""
        return {operator.kernel: operator.arguments for operator in self.operators}

    def packs(self, structure: str) -> str:
        """Return the input that a structure's CPU kernels may pack once when it is constant; "" is none."""
        constants = {o.constant for o in self.structures()[structure] if o.constant}
        return constants.pop() if constants and self.has(CPU) else ""


def operators_of(families: Iterable[Family]) -> Iterator[tuple[Family, Operator]]:
    """Yield all operators with their families."""
    for family in families:
        for operator in family.operators:
            yield family, operator


def check(families: Sequence[Family]) -> None:
    """Refuse operators that C++ cannot tell apart or spell.

    Raises:
        ValueError: with a sentence that names the operator.
    """
    owners: dict[tuple[str, str], object] = {}
    for family, operator in operators_of(families):
        where = f"operator {operator.qualified_name}"
        for word in (family.name, operator.name, operator.torch_name, operator.kernel, operator.arguments):
            require_identifier(word, where)
        for kind, name, owner in (
            ("the operator", operator.torch_name, operator.qualified_name),
            ("the structure", operator.arguments, family.name),
            ("the kernel", operator.kernel, (family.name, operator.arguments)),
        ):
            if owners.setdefault((kind, name), owner) != owner:
                raise ValueError(f"{where}: {kind} {name} belongs to {owners[kind, name]}; choose another name")
    for family in families:
        for structure, sharing in family.structures().items():
            if len({o.constant for o in sharing if o.constant}) > 1:
                raise ValueError(f"{structure}: its operators pack different inputs; give them structures of their own")
