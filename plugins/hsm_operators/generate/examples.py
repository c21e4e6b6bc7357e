"""The families' cases as C++ data, for the tests and the launch report."""

from __future__ import annotations

from collections.abc import Sequence

from ..case import Case, adjustments
from ..operator import Operator
from .cpp import NOTICE, literal, number, spelled
from .family import Family, operators_of


def examples(families: Sequence[Family]) -> str:
    """Return cases.gen.cc."""
    operators = [operator for _, operator in operators_of(families)]
    typical = [case for family in families for case in family.typical]
    small = [case for family in families for case in family.small]
    return (
        NOTICE
        + '// clang-format off\n#include "tests/cases.h"\n\nnamespace hsm::testing {\nnamespace {\n\n'
        + "using namespace opset;\n\n"
        + "".join(map(_adjustments, operators))
        + "\nconstexpr Facts kFacts[] = {\n"
        + "".join(map(_facts, operators))
        + "};\n\n}  // namespace\n\nstd::span<const Facts> facts() { return kFacts; }\n\n"
        + _cases("typical_cases", typical)
        + "\n"
        + _cases("small_cases", small)
        + "\n}  // namespace hsm::testing\n"
    )


def _adjustments(operator: Operator) -> str:
    names, places = spelled(operator), list(operator.sizes)
    rows = [f"    {{{places.index(size)}, {number(text, names)}}},\n" for size, text in adjustments(operator)]
    return f"constexpr Adjustment {_array(operator)}[] = {{\n{''.join(rows)}}};\n" if rows else ""


def _array(operator: Operator) -> str:
    return f"k{operator.name}Adjustments"


def _facts(operator: Operator) -> str:
    flops = number(operator.cost.flops if operator.cost else "0", spelled(operator))
    adjusted = _array(operator) if any(adjustments(operator)) else "{}"
    return f"    {{{literal(operator.domain)}, {literal(operator.name)}, {flops}, {adjusted}}},\n"


def _cases(name: str, cases: Sequence[Case]) -> str:
    rows = "".join(map(_case, cases))
    return (
        f"std::span<const Case> {name}() {{\n"
        f"  static const std::vector<Case> cases = {{\n{rows}  }};\n  return cases;\n}}\n"
    )


def _case(case: Case) -> str:
    operator = case.operator
    sizes = ", ".join(f"{{{literal(name)}, {size}}}" for name, size in case.all_sizes.items())
    attributes = ", ".join(_attribute(a.name, case.attributes[a.name]) for a in operator.attributes)
    places = [port.name for port in operator.inputs]
    ranges = ", ".join(f"{{{places.index(name)}, {least}, {most}}}" for name, (least, most) in case.ranges.items())
    starts = ", ".join(f"{{{places.index(name)}, {first}}}" for name, first in case.starts.items())
    return (
        f"    {{{literal(operator.domain)}, {literal(operator.name)}, {literal(case.label)},\n"
        f"     {{{sizes}}},\n     {{{attributes}}}, {{{ranges}}}, {{{starts}}}}},\n"
    )


def _attribute(name: str, value: float | tuple[int, ...]) -> str:
    if isinstance(value, float):
        return f"{{{literal(name)}, {{}}, {{{value!r}f}}}}"
    numbers = value if isinstance(value, tuple) else (value,)
    return f"{{{literal(name)}, {{{', '.join(map(str, numbers))}}}}}"
