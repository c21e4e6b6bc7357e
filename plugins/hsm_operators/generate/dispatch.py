"""Tables of functions, one for each kind of kernel: from an operator to what computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..operator import Operator
from .cpp import NOTICE, literal
from .family import CPU, CUDA, NAIVE, Family

_CUDA_FUNCTIONS = ("tactics", "supports", "default_tactic", "workspace", "launch")


def cpu_kernels(families: Sequence[Family], prefix: str) -> str:
    """Return cpu_kernels.gen.cc."""
    return _table(
        families, prefix, CPU, "hsm_operators/common/cpu/kernels.h", "hsm::cpu", "Kernel", "kernels", _cpu_row
    )


def _cpu_row(operator: Operator) -> str:
    call = f"::hsm::{operator.kernel}({operator.torch_name}_args(call), parallel_for)"
    members = [f"[](const Call& call, const ParallelFor& parallel_for) {{ {call}; }}"]
    if not operator.constant:
        members.append("{}")
    else:
        index = operator.inputs.index(operator.port(operator.constant))
        rank = len(operator.inputs[index].shape)
        members.append(f"{{{index}, pack<{operator.torch_name}_constant, {rank}>}}")
    return ",\n     ".join(members)


def cuda_kernels(families: Sequence[Family], prefix: str) -> str:
    """Return cuda_kernels.gen.cc."""
    header = "hsm_operators/common/cuda/kernels.h"
    return _table(families, prefix, CUDA, header, "hsm::cuda", "Kernels", "kernels", _cuda_row)


def _cuda_row(operator: Operator) -> str:
    functions = ",\n                ".join(f"{operator.kernel}_{name}" for name in _CUDA_FUNCTIONS)
    return f"functions<{operator.torch_name}_args,\n                {functions}>()"


def definitions(families: Sequence[Family], prefix: str) -> str:
    """Return definitions.gen.cc."""
    header = "hsm_operators/common/definition.h"
    return _table(families, prefix, NAIVE, header, "hsm", "Definition", "definitions", _naive_row)


def _naive_row(operator: Operator) -> str:
    return f"[](const Call& call) {{ {operator.kernel}_naive({operator.torch_name}_args(call)); }}"


def _table(
    families: Sequence[Family],
    prefix: str,
    kind: str,
    header: str,
    namespace: str,
    row: str,
    name: str,
    members: Callable[[Operator], str],
) -> str:
    """Return a table with a row for each operator whose family has kernels of a kind."""
    having = [family for family in families if family.has(kind)]
    names = ("bindings.gen.h", "cuda.gen.h") if kind == CUDA else ("bindings.gen.h",)
    includes = [header, *(f"{prefix}{family.name}/{file}" for family in having for file in names)]
    rows = "".join(
        f"    {{{members(o)},\n     {literal(o.domain)}, {literal(o.name)}}},\n"
        for family in having
        for o in family.operators
    )
    array = f"namespace {{\n\nconstexpr {row} kRows[] = {{\n{rows}}};\n\n}}  // namespace\n" if rows else ""
    return (
        NOTICE
        + "// clang-format off\n"
        + "".join(f'#include "{include}"\n' for include in includes)
        + f"\nnamespace {namespace} {{\n{array}"
        + f"\nstd::span<const {row}> {name}() {{ return {'kRows' if rows else '{}'}; }}\n\n"
        + f"}}  // namespace {namespace}\n"
    )
