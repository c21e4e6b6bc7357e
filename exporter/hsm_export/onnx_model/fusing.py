"""Which operators of a file that are not ours run as kernels, and which as their bodies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hsm_operators import DOMAIN, Operator
from hsm_operators.libraries import ADAPTERS, Selection, select

from ..files import sha256
from ..formats.bundle_manifest import LibraryEntry
from .file_operators import FileOperators
from .nodes import nodes_of

if TYPE_CHECKING:
    import onnx

_ADAPTER_WORDS: Mapping[str, str] = {
    "onnxruntime": "ONNX Runtime on the CPU",
    "onnxruntime_cuda": "ONNX Runtime on CUDA",
    "tensorrt": "TensorRT",
    "kernels": "PyTorch",
}


@dataclass(frozen=True)
class Fusion:
    """How a file's operators of others run.

    Attributes:
        selection: the libraries, for those that have one.
        bodies: why an operator runs as its body, by its qualified name.
        domains: domains other than ours in which every node of the file runs as a kernel.
    """

    selection: Selection = field(default_factory=lambda: Selection(""))
    bodies: Mapping[str, str] = field(default_factory=dict)
    domains: frozenset[str] = frozenset()

    @property
    def libraries(self) -> tuple[Path, ...]:
        """The libraries to load."""
        return self.selection.paths

    @property
    def fused(self) -> frozenset[tuple[str, str]]:
        """Domain and name of the operators that run as kernels."""
        names = (name.partition("::") for name in self.selection.libraries)
        return frozenset((domain, name) for domain, _, name in names)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each operator that runs as its body."""
        return tuple(f"{name} runs as its body: {why}" for name, why in self.bodies.items())


def fusion(model: onnx.ModelProto, adapter: str) -> Fusion:
    """Return how a file's operators of others run; those whose definition nobody knows are left out.

    Args:
        model: the file.
        adapter: one of `hsm_operators.libraries.ADAPTERS`.

    Raises:
        BadInputError: what the file says of its operators is malformed.
    """
    plain: dict[str, Operator] = {}
    variants: dict[str, str] = {}
    for node, operator in _calls(model):
        if node.op_type == operator.name:
            plain[operator.qualified_name] = operator
        else:
            variants[operator.qualified_name] = node.op_type
    selection = select(plain.values(), adapter)
    bodies = {name: selection.missing.get(name) or _without_kernels(o, adapter) for name, o in plain.items()}
    bodies |= {name: f"{own} holds values of its attributes, and has no kernel" for name, own in variants.items()}
    for name in selection.libraries:
        if name not in variants:
            del bodies[name]
    used = {name.partition("::")[0] for name in (*plain, *variants)}
    return Fusion(selection, bodies, frozenset(used - {name.partition("::")[0] for name in bodies}))


def all_bodies(model: onnx.ModelProto, why: str) -> tuple[str, ...]:
    """Return a sentence for each operator of others in a file, where all of them run as bodies.

    Args:
        model: the file.
        why: they do.

    Raises:
        BadInputError: what the file says of its operators is malformed.
    """
    names = dict.fromkeys(operator.qualified_name for _, operator in _calls(model))
    return Fusion(bodies=dict.fromkeys(names, why)).notes


def _calls(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, Operator]]:
    """Yield the nodes that call operators of others."""
    known = FileOperators(model)
    for node in nodes_of(model.graph.node):
        operator = known.find(node)
        if operator is not None and operator.domain != DOMAIN:
            yield node, operator


def _without_kernels(operator: Operator, adapter: str) -> str:
    needed = " or ".join(ADAPTERS[adapter])
    return f"there is no library of its kernels for {_ADAPTER_WORDS[adapter]} ({needed})"


def library_entries(fused: Fusion, adapter: str) -> Iterator[LibraryEntry]:
    """Yield what a bundle's manifest says of the libraries that run a model's operators."""
    for path in fused.libraries:
        operators = tuple(name for name, library in fused.selection.libraries.items() if library.path == path)
        yield LibraryEntry(path.name, cast(Any, adapter), sha256(path), operators)
